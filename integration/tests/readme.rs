//! The commands that README shows are run as they stand there.
//!
//! A block that begins with ```` ```sh ```` and has `<!-- run -->` in the line
//! above is a script. All of them run in one shell, in the order of the page, at
//! the root of the repository, and none may fail. `<!-- prints: TEXT -->`
//! below a block is a line that must be printed; a `*` in it stands for one word.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest time that all of it may take, with what has to be compiled.
const PATIENCE: Duration = Duration::from_secs(900);

/// A script of the page and what it must print.
#[derive(Debug, Default, PartialEq)]
struct Block {
    script: String,
    prints: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == "<!-- run -->" && lines.peek() == Some(&"```sh") {
            let script = lines.by_ref().skip(1).take_while(|line| *line != "```");
            let script = script.flat_map(|line| [line, "\n"]).collect();
            blocks.push(Block { script, prints: Vec::new() });
        }
        let wanted = line.trim().strip_prefix("<!-- prints: ");
        if let Some(text) = wanted.and_then(|text| text.strip_suffix(" -->")) {
            let block = blocks.last_mut().unwrap_or_else(|| panic!("no block above: {line}"));
            block.prints.push(text.to_owned());
        }
    }
    blocks
}

/// Whether a line consists of the words of a pattern; `*` stands for one word.
fn is(line: &str, pattern: &str) -> bool {
    let (mut words, mut wanted) = (line.split_whitespace(), pattern.split_whitespace());
    loop {
        match (words.next(), wanted.next()) {
            (None, None) => return true,
            (Some(word), Some(pattern)) if pattern == "*" || word == pattern => (),
            _ => return false,
        }
    }
}

/// Looks again and again until there is something, or `None` when it is too late.
fn within<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    #[expect(clippy::disallowed_methods, reason = "what hangs is ended by the clock")]
    let begun = Instant::now();
    loop {
        match look() {
            None if begun.elapsed() < patience => thread::sleep(Duration::from_millis(20)),
            found => return found,
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a script to its end, and everything that it started to its end as well.
fn run(script: &str) -> (bool, String) {
    let mut child = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(root())
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CXTP_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that nothing of it outlives the test.
        .process_group(0)
        .spawn()
        .unwrap();
    let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let read = |mut from: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let ended = within(PATIENCE, || child.try_wait().unwrap());
    // What is left of it, and the script itself if it hangs.
    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    let _ = child.wait();
    let said = format!("{}\n--- stderr\n{}", stdout.join().unwrap(), stderr.join().unwrap());
    (ended.is_some_and(|status| status.success()), said)
}

#[test]
fn the_commands_of_the_readme_do_what_it_says() {
    let pages = [root().join("README.md")];
    let pages = pages.iter().filter_map(|path| fs::read_to_string(path).ok());
    let blocks: Vec<Block> = pages.flat_map(|page| blocks(&page)).collect();
    assert!(!blocks.is_empty(), "README.md marks no block with <!-- run -->");
    let script: String = blocks.iter().map(|block| block.script.as_str()).collect();
    let (well, said) = run(&script);
    assert!(well, "{script}\n{said}");
    // In the order of the page, each in a line of its own.
    let mut lines = said.lines();
    for pattern in blocks.iter().flat_map(|block| &block.prints) {
        assert!(lines.any(|line| is(line, pattern)), "`{pattern}` is not in its place in\n{said}");
    }
}

#[test]
fn blocks_are_found_and_others_are_left_alone() {
    let page = "x\n```sh\nno\n```\n<!-- run -->\n```sh\na\nb\n```\n<!-- prints: 1 * lost -->\n";
    let block = Block { script: "a\nb\n".to_owned(), prints: vec!["1 * lost".to_owned()] };
    assert_eq!(blocks(page), [block]);
    assert!(is("1 packet  lost", "1 * lost") && !is("1 lost", "1 * lost"));
    assert!(!is("1 a lost more", "1 * lost") && !is("1 a", "1 * lost"));
}

#[test]
fn a_command_that_fails_is_noticed_and_nothing_outlives_the_script() {
    let (well, _) = run("false; true");
    assert!(!well);
    let (well, said) = run("sleep 3600 & echo $!");
    assert!(well, "{said}");
    let id: i32 = said.lines().next().unwrap().parse().unwrap();
    let gone = || match fs::read_to_string(format!("/proc/{id}/stat")) {
        Ok(stat) if !stat.contains(") Z ") => None,
        _ => Some(()),
    };
    within(Duration::from_secs(10), gone).expect("it was ended with its script");
}

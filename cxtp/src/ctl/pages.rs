//! Shell completions and manual pages, generated from the commands themselves.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use serde_json::json;

use super::{
    args,
    outcome::{Answer, Exit, Problem},
};

/// The script with which a shell completes the commands.
pub(super) fn completions(shell: Shell) -> Answer {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "cxtpctl", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let facts = json!({"shell": shell.to_string(), "script": script});
    Answer::done(script, &facts)
}

/// The manual page of the tool, or the pages of all its commands as files.
pub(super) fn man(dir: Option<&Path>) -> Result<Answer, Problem> {
    let mut command = args::command();
    command.build();
    let Some(dir) = dir else {
        let page = String::from_utf8_lossy(&page(&command)?).into_owned();
        let facts = json!({"page": page});
        return Ok(Answer::done(page, &facts));
    };
    let cannot = |path: &Path, error: std::io::Error| {
        Problem::file(format!("{} cannot be written: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| cannot(dir, error))?;
    let mut files = Vec::new();
    for command in with_subcommands(&command) {
        // A page is made from the tool alone, so an older one is replaced.
        let path: PathBuf = dir.join(Man::new(command.clone()).get_filename());
        fs::write(&path, page(command)?).map_err(|error| cannot(&path, error))?;
        files.push(path.display().to_string());
    }
    let text = format!("{} pages are in {}", files.len(), dir.display());
    Ok(Answer::done(text, &json!({"pages": files.len(), "files": files})))
}

fn with_subcommands(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    std::iter::once(command).chain(below.flat_map(with_subcommands)).collect()
}

fn page(command: &Command) -> Result<Vec<u8>, Problem> {
    let mut page = Vec::new();
    // The codes have their own section here, with the heading that man pages use.
    Man::new(command.clone().after_help(None::<&str>))
        .manual("CXTP")
        .render(&mut page)
        .and_then(|()| {
            page.write_all(b".SH \"EXIT STATUS\"\n")?;
            Exit::ALL.iter().try_for_each(|(exit, meaning)| {
                writeln!(page, ".TP\n\\fB{}\\fR\n{meaning}", exit.code())
            })
        })
        .map_err(|error| Problem::file(format!("the manual page cannot be made: {error}")))?;
    Ok(page)
}

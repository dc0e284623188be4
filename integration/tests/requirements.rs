//! Every MUST of the specification is obeyed at a line that says so, and proven
//! by a test that says so.
//!
//! ```text
//! spec/*.md     - **CXTP-6.2-3** A source MUST ...
//! code          //= spec CXTP-6.2-3
//! test          // proves CXTP-6.2-3      on the lines before #[test]
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

/// A file: its path from the root of the repository, and its text.
struct File {
    path: String,
    text: String,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Problem {
    /// The number stands twice in the text.
    Duplicate(String),
    /// The number is not of its file's section, or has no word of RFC 2119.
    Malformed(String, String),
    /// Nobody defines the number.
    Unknown(String, String),
    /// A MUST that no line of code obeys.
    Uncited(String),
    /// A MUST that no test proves.
    Unproven(String),
    /// A citation that stands where it means nothing.
    Misplaced(String, String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(id) => write!(f, "{id} stands twice in the text"),
            Self::Malformed(id, why) => write!(f, "{id}: {why}"),
            Self::Unknown(id, at) => write!(f, "{at} names {id}, which the text does not have"),
            Self::Uncited(id) => write!(f, "{id}: no code says `//= spec {id}`"),
            Self::Unproven(id) => write!(f, "{id}: no test says `// proves {id}`"),
            Self::Misplaced(id, at) => write!(f, "{at} cites {id} where it means nothing"),
        }
    }
}

/// Numbers in a line: `CXTP-`, digits and points, `-`, digits.
fn ids(line: &str) -> impl Iterator<Item = &str> {
    const MARK: &str = concat!("CX", "TP-");
    line.match_indices(MARK).filter_map(move |(at, _)| {
        let rest = line.get(at + MARK.len()..)?;
        let section = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number = rest.get(section..)?.strip_prefix('-')?;
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        (section > 0 && digits > 0).then(|| line.get(at..at + MARK.len() + section + 1 + digits))?
    })
}

/// Every requirement of the text, and whether it is a MUST.
fn requirements(spec: &[File], problems: &mut BTreeSet<Problem>) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for file in spec {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let section = name.split('-').next().unwrap_or_default();
        for line in file.text.lines() {
            let Some(rest) = line.strip_prefix("- **") else { continue };
            let Some(id) = ids(rest).next().filter(|id| rest.starts_with(id)) else { continue };
            let of_section = id.split('-').nth(1).and_then(|number| number.split('.').next());
            if of_section != Some(section) {
                let why = format!("it stands in {name}");
                problems.insert(Problem::Malformed(id.to_owned(), why));
            }
            let words: Vec<&str> = rest.split(|c: char| !c.is_ascii_uppercase()).collect();
            let is = |word: &str| words.contains(&word);
            if !(is("MUST") || is("SHOULD") || is("MAY")) {
                let why = "it has none of MUST, SHOULD and MAY".to_owned();
                problems.insert(Problem::Malformed(id.to_owned(), why));
            }
            if found.insert(id.to_owned(), is("MUST")).is_some() {
                problems.insert(Problem::Duplicate(id.to_owned()));
            }
        }
    }
    found
}

/// Whether a whole file is tests. The integration crate proves and ships nothing.
fn is_test_file(path: &str) -> bool {
    path.starts_with("integration/")
        || path.ends_with("tests.rs")
        || path.split('/').any(|part| matches!(part, "tests" | "benches" | "fuzz"))
}

/// Whether the lines that follow a `proves` lead to a test.
fn leads_to_test(following: &[&str]) -> bool {
    following
        .iter()
        .map(|line| line.trim())
        .skip_while(|line| line.starts_with("//"))
        .take_while(|line| line.starts_with('#'))
        .any(|line| line.contains("test"))
}

/// Looks at one file of code.
fn citations(
    file: &File,
    known: &BTreeMap<String, bool>,
    problems: &mut BTreeSet<Problem>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut cited, mut proven) = (BTreeSet::new(), BTreeSet::new());
    let lines: Vec<&str> = file.text.lines().collect();
    let mut in_test = is_test_file(&file.path);
    for (number, line) in lines.iter().enumerate() {
        let at = format!("{}:{}", file.path, number + 1);
        let line = line.trim();
        // A module of tests inside a file ends it; one beside it is another file.
        let next = lines.get(number + 1).map_or("", |next| next.trim());
        in_test |= line == "#[cfg(test)]" && next.starts_with("mod ") && next.ends_with('{');
        for id in ids(line) {
            if !known.contains_key(id) {
                problems.insert(Problem::Unknown(id.to_owned(), at.clone()));
                continue;
            }
            let (places, right) = if line.starts_with("//= spec ") {
                (&mut cited, !in_test)
            } else if line.starts_with("// proves ") {
                (&mut proven, in_test && leads_to_test(lines.get(number + 1..).unwrap_or(&[])))
            } else {
                continue;
            };
            if right {
                places.insert(id.to_owned());
            } else {
                problems.insert(Problem::Misplaced(id.to_owned(), at.clone()));
            }
        }
    }
    (cited, proven)
}

/// The whole check; also the number of MUSTs.
fn check(spec: &[File], code: &[File]) -> (usize, Vec<Problem>) {
    let mut problems = BTreeSet::new();
    let known = requirements(spec, &mut problems);
    let (mut cited, mut proven) = (BTreeSet::new(), BTreeSet::new());
    for file in code {
        let (more_cited, more_proven) = citations(file, &known, &mut problems);
        cited.extend(more_cited);
        proven.extend(more_proven);
    }
    let musts: Vec<&String> = known.iter().filter_map(|(id, must)| must.then_some(id)).collect();
    for id in &musts {
        if !cited.contains(*id) {
            problems.insert(Problem::Uncited((*id).clone()));
        }
        if !proven.contains(*id) {
            problems.insert(Problem::Unproven((*id).clone()));
        }
    }
    (musts.len(), problems.into_iter().collect())
}

/// Every file with this ending below a folder, except what was built.
fn read(root: &Path, folder: &Path, ending: &str, files: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                read(root, &path, ending, files);
            }
        } else if name.ends_with(ending)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push(File { path, text });
        }
    }
}

#[test]
fn every_must_is_obeyed_and_proven() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut spec, mut code) = (Vec::new(), Vec::new());
    read(&root, &root.join("protocol-spec/spec"), ".md", &mut spec);
    read(&root, &root, ".rs", &mut code);
    assert!(spec.len() >= 10 && code.len() > 20, "the repository is not where it should be");
    let (musts, problems) = check(&spec, &code);
    assert!(musts > 50, "only {musts} MUSTs were found");
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert!(lines.is_empty(), "{} of {musts} MUSTs:\n{}", lines.len(), lines.join("\n"));
    println!("{musts} MUSTs, each obeyed and proven");
}

mod checker {
    //! The checker on made-up trees: it can fail, in each of its ways.

    use super::{File, Problem, check};

    /// `X` stands for the mark of a number, so that this file cites nothing.
    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.replace('X', concat!("CX", "TP-")) }
    }

    fn id(number: &str) -> String {
        number.replace('X', concat!("CX", "TP-"))
    }

    fn spec() -> Vec<File> {
        let text = "# 1\n\n- **X1.1-1** A MUST hold.\n- **X1.1-2** B SHOULD hold.\n\
                    - **X1.2-1** C MUST NOT hold.\n";
        vec![file("protocol-spec/spec/1-one.md", text)]
    }

    const CODE: &str = "fn a() {\n    //= spec X1.1-1\n    //= spec X1.2-1\n}\n";
    const TEST: &str = "// proves X1.1-1\n// proves X1.2-1\n#[test]\nfn t() {}\n";

    fn problems(code: &[(&str, &str)]) -> Vec<Problem> {
        let code: Vec<File> = code.iter().map(|(path, text)| file(path, text)).collect();
        check(&spec(), &code).1
    }

    #[test]
    fn a_good_tree_passes() {
        assert_eq!(problems(&[("a/src/lib.rs", CODE), ("a/src/lib/tests.rs", TEST)]), []);
        assert_eq!(problems(&[("a/src/lib.rs", CODE), ("a/tests/t.rs", TEST)]), []);
        let inline = format!("{CODE}#[cfg(test)]\nmod tests {{\n{TEST}}}\n");
        assert_eq!(problems(&[("a/src/lib.rs", &inline)]), []);
        let annotated = TEST.replace("#[test]", "// why\n#[tokio::test]");
        assert_eq!(problems(&[("a/src/lib.rs", CODE), ("a/tests/t.rs", &annotated)]), []);
    }

    #[test]
    fn a_must_without_code_or_test_fails() {
        let (uncited, unproven) = (Problem::Uncited(id("X1.2-1")), Problem::Unproven(id("X1.2-1")));
        let code = CODE.replace("    //= spec X1.2-1\n", "");
        assert_eq!(problems(&[("a/src/lib.rs", &code), ("a/tests/t.rs", TEST)]), [uncited]);
        let test = TEST.replace("// proves X1.2-1\n", "");
        assert_eq!(problems(&[("a/src/lib.rs", CODE), ("a/tests/t.rs", &test)]), [unproven]);
        assert_eq!(problems(&[]).len(), 4);
    }

    #[test]
    fn an_unknown_number_fails_wherever_it_stands() {
        for line in ["//= spec X1.1-9", "// proves X1.1-9", "/// see X1.1-9", "let x = \"X1.1-9\";"]
        {
            let code = format!("{CODE}{line}\n");
            let found = problems(&[("a/src/lib.rs", &code), ("a/tests/t.rs", TEST)]);
            assert_eq!(found, [Problem::Unknown(id("X1.1-9"), "a/src/lib.rs:5".into())], "{line}");
        }
    }

    #[test]
    fn a_citation_in_a_test_and_a_proof_outside_of_one_fail() {
        let moved = [("a/tests/code.rs", CODE), ("a/tests/t.rs", TEST)];
        assert!(problems(&moved).contains(&Problem::Uncited(id("X1.1-1"))));
        let integration = [("integration/src/lib.rs", CODE), ("a/tests/t.rs", TEST)];
        assert!(problems(&integration).contains(&Problem::Uncited(id("X1.1-1"))));
        let in_code = [("a/src/lib.rs", CODE), ("a/src/t.rs", TEST)];
        assert!(problems(&in_code).contains(&Problem::Unproven(id("X1.1-1"))));
        // Before a function that is no test.
        let helper = TEST.replace("#[test]\n", "");
        let found = problems(&[("a/src/lib.rs", CODE), ("a/tests/t.rs", &helper)]);
        assert!(found.contains(&Problem::Misplaced(id("X1.1-1"), "a/tests/t.rs:1".into())));
        assert!(found.contains(&Problem::Unproven(id("X1.1-1"))));
    }

    #[test]
    fn a_number_that_stands_twice_or_in_the_wrong_place_fails() {
        let (_, found) = check(
            &[
                file("spec/1-one.md", "- **X1.1-1** A SHOULD hold.\n- **X1.1-1** A MAY hold.\n"),
                file("spec/2-two.md", "- **X1.3-1** A SHOULD hold.\n- **X2.1-1** It holds.\n"),
            ],
            &[],
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], Problem::Duplicate(id("X1.1-1")));
        assert!(matches!(&found[1], Problem::Malformed(x, _) if *x == id("X1.3-1")));
        assert!(matches!(&found[2], Problem::Malformed(x, _) if *x == id("X2.1-1")));
    }
}

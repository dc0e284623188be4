//! Arguments, as `cargo` aliases pass them.

use std::ffi::OsString;

/// The arguments of this process. An alias that ends in `--` passes on a second one
/// when the user writes one, as in `cargo demo -- --json`; it means nothing.
pub fn of_process() -> Vec<OsString> {
    without_separator(std::env::args_os().collect())
}

fn without_separator(mut args: Vec<OsString>) -> Vec<OsString> {
    if args.get(1).is_some_and(|arg| arg == "--") {
        args.remove(1);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(args: &[&str]) -> Vec<OsString> {
        without_separator(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn one_separator_in_front_means_nothing() {
        assert_eq!(cleaned(&["demo", "--", "--json"]), ["demo", "--json"]);
        assert_eq!(cleaned(&["demo", "--json"]), ["demo", "--json"]);
        assert_eq!(cleaned(&["demo"]), ["demo"]);
        assert_eq!(cleaned(&["lab", "run", "--", "x"]), ["lab", "run", "--", "x"]);
    }
}

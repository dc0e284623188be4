use super::*;

fn ask(typed: &str) -> (Result<(), Problem>, String) {
    let mut shown = Vec::new();
    let answer = confirm(risk(Resolution::ResumeHere), &mut typed.as_bytes(), &mut shown);
    (answer, String::from_utf8(shown).unwrap())
}

#[test]
fn only_yes_is_a_yes() {
    let (answer, shown) = ask("yes\n");
    assert_eq!(answer, Ok(()));
    assert!(shown.contains("two gateways use one session"), "{shown}");
    for typed in ["", "\n", "y\n", "no\n", "YES\n"] {
        assert_eq!(ask(typed).0.unwrap_err().exit, Exit::NotDone, "{typed:?}");
    }
}

#[test]
fn the_worst_outcome_gives_the_exit_code() {
    let exit = |moved, refused, in_doubt, lost| {
        let sessions = moved + refused + in_doubt + lost;
        summed_up(&Summary { sessions, moved, refused, in_doubt, lost, ..Summary::default() }).exit
    };
    assert_eq!(exit(3, 0, 0, 0), Exit::Done);
    assert_eq!(exit(0, 3, 0, 0), Exit::NotDone);
    assert_eq!(exit(2, 1, 0, 0), Exit::Partly);
    assert_eq!(exit(2, 1, 1, 0), Exit::InDoubt);
    assert_eq!(exit(0, 0, 0, 1), Exit::InDoubt);
    assert_eq!(exit(0, 0, 0, 0), Exit::Done, "none to move is no failure");
}

#[test]
fn the_summary_says_what_is_not_listed() {
    let answer = summed_up(&Summary { sessions: 150, aborted: 150, ..Summary::default() });
    assert!(answer.text.contains("150 more did not move"), "{}", answer.text);
    assert!(!answer.text.contains("gap:"), "no gap where nothing moved");
}

use super::*;

#[test]
fn the_look_is_one_that_can_be_drawn() {
    assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
}

#[test]
fn a_bar_follows_the_progress_and_nothing_else() {
    let bar = Bar::new("moving");
    bar.take(&Line::Progress(Progress { sessions: 10, ended: 4, moved: 3 }));
    bar.take(&Line::Sessions(Vec::new()));
    assert_eq!((bar.0.length(), bar.0.position()), (Some(10), 4));
    assert_eq!((bar.0.prefix(), bar.0.message()), ("moving".to_owned(), "3 moved".to_owned()));
    bar.take(&Line::Progress(Progress { sessions: 12, ended: 12, moved: 11 }));
    assert_eq!((bar.0.length(), bar.0.position()), (Some(12), 12));
}

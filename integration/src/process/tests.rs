use super::*;

#[test]
fn a_condition_that_never_comes_is_an_error_that_names_it() {
    let error = wait_for::<()>("the moon", Duration::from_millis(30), || Ok(None)).unwrap_err();
    assert!(error.to_string().contains("the moon"), "{error}");
}

#[test]
fn a_condition_is_looked_at_again() {
    let mut looks = 0;
    let found = wait_for("third look", Duration::from_secs(5), || {
        looks += 1;
        Ok((looks == 3).then_some(looks))
    });
    assert_eq!(found.unwrap(), 3);
}

#[test]
fn the_memory_of_this_process_is_known() {
    assert!(rss_kib(std::process::id()).unwrap() > 100);
}

#[test]
fn an_ordinary_argument_is_no_role() {
    let args = ["demo", "--json"].map(OsString::from);
    assert!(become_role(&args).is_none());
    assert!(become_role(&[]).is_none());
}

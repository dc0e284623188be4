use super::*;

#[test]
fn files_come_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("b"), "kept").unwrap();
    let mut files = NewFiles::default();
    files.add(&dir.path().join("a"), PRIVATE, "1").unwrap();
    let problem = files.add(&dir.path().join("b"), PRIVATE, "2").unwrap_err();
    assert!(problem.detail.contains("is there already"), "{}", problem.detail);
    drop(files);
    assert!(!dir.path().join("a").exists());
    assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "kept");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let problem = read_private(&path).unwrap_err();
    assert!(problem.detail.contains("mode 0640") && problem.detail.contains("chmod 600"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(read_private(&path).unwrap().as_str(), "text");
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    fs::write(&path, [0; 9]).unwrap();
    assert_eq!(read(&path, 9).unwrap().len(), 9);
    assert!(read(&path, 8).unwrap_err().detail.contains("longer than 8"));
}

//! Files as strongSwan's packages bring them.

use super::*;

#[test]
fn values_are_found_by_their_path() {
    let settings = Settings::parse(
        "# a comment\n\
         charon {\n\
           load_modular = yes # behind a value\n\
           plugins { ha { local = 127.0.0.1\n remote = 127.0.0.2 }\n\
             kernel-netlink { roam_events = no } }\n\
           filelog { log { path = \"/var/log/a # b\" } }\n\
           plugins { ha { local = 127.0.0.9 } }\n\
         }\n\
         charon-systemd { plugins { ha { remote = 127.0.0.3 } } }\n",
    )
    .unwrap();
    assert_eq!(settings.value("charon.load_modular"), Some("yes"));
    assert_eq!(settings.value("charon.plugins.ha.local"), Some("127.0.0.9"));
    assert_eq!(settings.value("charon.filelog.log.path"), Some("/var/log/a # b"));
    assert_eq!(settings.charon("charon", "plugins.ha.remote"), Some("127.0.0.2"));
    assert_eq!(settings.charon("charon-systemd", "plugins.ha.remote"), Some("127.0.0.3"));
    assert!(!settings.charon_flag("charon", "plugins.kernel-netlink.roam_events", true));
    assert!(settings.charon_flag("charon", "plugins.ha.monitor", true));
    assert!(settings.has_section("charon.plugins.ha"));
}

#[test]
fn files_are_included_where_they_stand_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    write("a.conf", "charon {\n plugins {\n include d/*.conf\n }\n}\ninclude absent/*.conf\n");
    write("d/ha.conf", "ha {\n load = yes\n segment_count = 1\n}\n");
    write("d/zz.conf", "ha { segment_count = 16 }\n");
    write("d/ha.conf.dpkg-old", "ha { segment_count = 99 }\n");
    let settings = Settings::read(&folder.path().join("a.conf")).unwrap();
    assert_eq!(settings.value("charon.plugins.ha.load"), Some("yes"));
    assert_eq!(settings.value("charon.plugins.ha.segment_count"), Some("16"));
    write("d/self.conf", "include self.conf\n");
    let error = Settings::read(&folder.path().join("a.conf")).unwrap_err();
    assert_eq!(error.problem, "too many files include each other");
}

#[test]
fn no_secret_is_kept() {
    let settings = Settings::parse(
        "secrets { ike-1 { id = a\n secret = marked } }\n\
         charon { plugins { ha { secret = marked } eap-radius { servers { a { secret = \"marked\" } } } } }",
    )
    .unwrap();
    assert!(!format!("{settings:?}").contains("marked"));
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let said = |text: &str| Settings::parse(text).unwrap_err().to_string();
    assert_eq!(said("a {\n"), "(text):0: the section `a` is not closed");
    assert_eq!(said("a = 1\n}\n"), "(text):2: a `}` without a section");
    assert_eq!(said("a\n"), "(text):1: neither a value nor a section");
    assert_eq!(said("= 1"), "(text):1: a name is missing");
    assert_eq!(said("a = \"b"), "(text):1: a quote is open");
    assert_eq!(said(&"a {".repeat(17)), "(text):1: sections nested too deep");
}

#[test]
fn patterns_fit_as_a_shell_has_it() {
    for (pattern, name, fits) in [
        ("*.conf", "ha.conf", true),
        ("*.conf", ".conf", false),
        ("*.conf", "ha.conf.old", false),
        ("h?.conf", "ha.conf", true),
        ("*a*b*", "xaxxbxab", true),
        ("*a*b", "xaxxbxa", false),
        ("", "", true),
    ] {
        assert_eq!(matches_pattern(pattern, name), fits, "{pattern} {name}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "[a-z{}=#\"\\\\ \n.:]{0,200}") {
        let _ = Settings::parse(&text);
    }
}

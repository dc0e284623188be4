//! Getters, and what must not be shown.

use super::*;

fn sample() -> Section {
    Section::new()
        .with("state", "ESTABLISHED")
        .with("uniqueid", "7")
        .with("spi", "c0ffee01")
        .with("host", "10.0.0.1")
        .with("nat-local", "yes")
        .with("nat-remote", "no")
        .with_list("vips", ["10.9.0.1", "fec0::1"])
        .with_section("child-sas", Section::new().with("a", "b"))
}

#[test]
fn values_are_read_as_what_they_are() {
    let s = sample();
    assert_eq!(s.text("state").unwrap(), "ESTABLISHED");
    assert_eq!(s.number::<u32>("uniqueid").unwrap(), 7);
    assert_eq!(s.optional_hex32("spi").unwrap(), Some(0xc0ff_ee01));
    assert_eq!(s.address("host").unwrap(), "10.0.0.1".parse::<IpAddr>().unwrap());
    assert!(s.flag("nat-local").unwrap());
    assert!(!s.flag("nat-remote").unwrap());
    assert!(!s.flag("nat-fake").unwrap());
    assert_eq!(s.addresses("vips").unwrap().len(), 2);
    assert_eq!(s.section("child-sas").unwrap().text("a").unwrap(), "b");
    assert_eq!(s.only_section().unwrap().0, "child-sas");
}

#[test]
fn an_error_names_the_key_and_what_is_wrong() {
    let s = sample();
    let said = |error: AnswerError| error.within("vpn").to_string();
    assert_eq!(said(s.text("absent").unwrap_err()), "`vpn.absent` is missing");
    assert_eq!(said(s.text("vips").unwrap_err()), "`vpn.vips` is not a value");
    assert_eq!(said(s.texts("state").unwrap_err()), "`vpn.state` is not a list");
    assert_eq!(said(s.section("state").unwrap_err()), "`vpn.state` is not a section");
    assert_eq!(
        said(s.number::<u8>("spi").unwrap_err()),
        "`vpn.spi` is `c0ffee01`, not a number that fits"
    );
    assert_eq!(
        said(s.address("state").unwrap_err()),
        "`vpn.state` is `ESTABLISHED`, not an IP address"
    );
    let wide = Section::new().with("spi", "1c0ffee01");
    assert_eq!(said(wide.optional_hex32("spi").unwrap_err()), "`vpn.spi` exceeds 32 bits");
}

#[test]
fn where_a_name_stands_twice_the_first_counts() {
    let s = Section::new().with("a", "1").with("a", "2");
    assert_eq!(s.number::<u8>("a").unwrap(), 1);
    assert_eq!(s.iter().count(), 2);
}

#[test]
fn debug_shows_no_value() {
    let secret = Section::new()
        .with("type", "IKE")
        .with("data", "marked-secret")
        .with_list("owners", ["marked-secret"])
        .with_section("deeper", Section::new().with("data", "marked-secret"));
    let shown = format!("{secret:?}");
    assert!(shown.contains("data") && shown.contains("<13 octets>"), "{shown}");
    assert!(!shown.contains("marked"), "{shown}");
}

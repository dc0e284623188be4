use super::*;

const LEAST: &str = "name = \"gw-a\"\nsocket = \"/run/cxtp/gateway.sock\"\n\
    [network]\nouter = [\"wan\"]\ninner = \"lan\"\n";

#[test]
fn what_a_session_must_have_is_named_by_words() {
    assert!(Config::from_toml(LEAST).unwrap().require.is_empty());
    let text = format!("require = [\"message-id-sync\", \"outer-ipv4\"]\n{LEAST}");
    let required = Config::from_toml(&text).unwrap().require;
    assert_eq!(required, FeatureSet::from_iter([Feature::MessageIdSync, Feature::OuterIpv4]));
}

#[test]
fn a_word_that_names_nothing_is_refused_with_a_cure() {
    let text = format!("require = [\"MessageIdSync\"]\n{LEAST}");
    let error = Config::from_toml(&text).unwrap_err();
    assert!(error.contains("`require`") && error.contains("such as `message-id-sync`"), "{error}");
}

#[test]
fn neighbours_are_known_by_their_names() {
    let text = format!("{LEAST}[neighbours.gw-b]\ninner = \"10.0.0.2\"\nouter = \"192.0.2.3\"\n");
    let neighbours = Config::from_toml(&text).unwrap().neighbours();
    let name: Name = "gw-b".parse().unwrap();
    assert_eq!(neighbours[&name].name, name);
    assert_eq!(neighbours[&name].outer, "192.0.2.3".parse::<IpAddr>().unwrap());
}

use super::*;

fn config() -> Config {
    Config::new("sg1".parse().unwrap(), "eth0", "eth1")
}

fn refused(change: impl FnOnce(&mut Config)) -> String {
    let mut config = config();
    change(&mut config);
    config.validate().unwrap_err().to_string()
}

#[test]
fn the_default_is_valid() {
    assert!(config().validate().is_ok());
}

#[test]
fn each_mistake_names_its_setting() {
    let multicast = Mode::Shared(Layer2::Multicast([2, 0, 0, 0, 0, 1]));
    let flooded = Mode::Shared(Layer2::Flooded([3, 0, 0, 0, 0, 1]));
    let share = |config: &mut Config, mode| {
        config.shared = vec!["192.0.2.1".parse().unwrap()];
        config.members = vec!["sg1".parse().unwrap()];
        config.mode = mode;
    };
    for (message, setting) in [
        (refused(|c| c.outer.clear()), "outer"),
        (refused(|c| c.outer = vec!["eth0\"; drop".to_owned()]), "outer, inner"),
        (refused(|c| c.inner = "eth0".to_owned()), "inner"),
        (refused(|c| c.table = 254), "table"),
        (refused(|c| c.limits.packets = 0), "limits"),
        (refused(|c| c.ike_ports = (500, 500)), "ike_ports"),
        (refused(|c| c.mode = Mode::Address), "shared"),
        (refused(|c| c.mode = multicast), "shared"),
        (refused(|c| share(c, multicast)), "layer2"),
        (refused(|c| share(c, flooded)), "layer2"),
        (
            refused(|c| {
                share(c, flooded);
                c.members.clear();
            }),
            "members",
        ),
        (
            refused(|c| {
                let address = "0.0.0.0".parse().unwrap();
                c.inner_networks = vec![Prefix { address, bits: 0 }];
            }),
            "inner_networks",
        ),
    ] {
        assert!(message.starts_with(&format!("steering.{setting}: ")), "{message}");
    }
}

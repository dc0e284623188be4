use super::*;

const TWO: &str = "list-sa event {vpn {uniqueid=1 version=2 state=ESTABLISHED local-host=10.0.0.10 \
local-port=4500 local-id=eu1@example.org remote-host=10.0.0.1 remote-port=4500 remote-id=gw.example.org \
initiator=yes initiator-spi=7c1e6bd7ee1ba5cf responder-spi=9b2a0b63e86d7b13 encr-alg=AES_CBC \
established=3 rekey-time=13000 local-vips=[10.9.1.1 fd00:9::1:1] child-sas {net-1 {name=net uniqueid=1 reqid=1 \
state=INSTALLED mode=TUNNEL protocol=ESP spi-in=c5a1a7a4 spi-out=cb52a7d2 bytes-in=0 \
local-ts=[10.9.1.1/32] remote-ts=[192.168.7.0/24]}}}}\n\
list-sa event {vpn {uniqueid=2 state=CONNECTING remote-host=10.0.0.1 remote-port=500 \
initiator-spi=01 responder-spi=00 tasks-active=[IKE_VENDOR IKE_INIT] child-sas {}}}\nlist-sas reply {}\n";

#[test]
fn two_ike_sas() {
    let sas = parse(TWO).unwrap();
    assert_eq!(sas.len(), 2);
    assert!(sas[0].established() && !sas[1].established());
    assert_eq!(sas[0].spis, ["7c1e6bd7ee1ba5cf", "9b2a0b63e86d7b13"]);
    assert_eq!(sas[0].virtual_ips, ["10.9.1.1", "fd00:9::1:1"]);
    assert_eq!(sas[0].remote, "10.0.0.1[4500]");
    assert_eq!(sas[0].child("net").unwrap().spi_out, "cb52a7d2");
    assert!(sas[0].child("other").is_none() && sas[1].children.is_empty());
}

#[test]
fn what_is_cut_off_is_an_error() {
    assert!(parse("list-sa event {vpn {uniqueid=1").is_err());
    assert!(parse("list-sa event {vpn {uniqueid=1}}").is_err());
    assert!(parse("").unwrap().is_empty());
}

use protocol_spec::{
    KeyMaterial,
    context::{
        ChildSa, ChildTransforms, Context, ENCR_AES_GCM_16, InboundSa, Lifetime, Load, Mode,
        OutboundSa, Protocol, ReplayWindow, SaKeys,
    },
    id::{BatchId, Generation, SessionEpoch},
    transfer::Finals,
};

use super::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn keys() -> SaKeys {
    SaKeys { encryption: KeyMaterial::new(vec![0xa5; 20]), integrity: KeyMaterial::new(vec![]) }
}

fn exported() -> Exported {
    let child = ChildSa {
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        configuration: "road-warrior".to_owned(),
        reqid: 1,
        cpi: None,
        transforms: ChildTransforms { encryption: ENCR_AES_GCM_16, key_bits: 128, integrity: 0 },
        esn: true,
        inbound: InboundSa {
            spi: 7,
            keys: keys(),
            window: ReplayWindow { size: 32, highest: 3, bitmap: vec![7] },
        },
        outbound: OutboundSa { spi: 8, keys: keys(), sequence: 11 },
        policies: Vec::new(),
        encapsulation: None,
        pmtu: None,
        mark: None,
        if_id: None,
        lifetime: Lifetime::default(),
        rekey_in: None,
        seed: None,
        endpoints: None,
    };
    Exported {
        batch: BatchId([1; 16]),
        source: name("gw-a"),
        target: name("gw-b"),
        epoch: SessionEpoch(1),
        grants: Vec::new(),
        finals: Finals { generation: Generation(1), ike: None, children: Vec::new() },
        context: Context {
            session: SessionId([2; 16]),
            generation: Generation(1),
            ike: None,
            children: vec![child],
            load: Load::default(),
        },
    }
}

// proves CXTP-6.8-2
#[test]
fn what_was_sealed_opens_at_its_target_only() {
    let key = SealKey::generate();
    let sealed = seal(&exported(), &key.public().unwrap()).unwrap();
    assert_eq!(key.open(&sealed, &name("gw-b")).unwrap(), exported());
    assert_eq!(SealKey::generate().open(&sealed, &name("gw-b")), Err(SealError::CannotOpen));
    assert!(matches!(
        key.open(&sealed, &name("gw-c")),
        Err(SealError::WrongTarget { sealed_to, .. }) if sealed_to == "gw-b"
    ));
}

// proves CXTP-6.8-2
// proves CXTP-10.1-2
#[test]
fn no_key_stands_in_the_file() {
    let key = SealKey::generate();
    let sealed = seal(&exported(), &key.public().unwrap()).unwrap();
    let text = serde_json::to_string(&sealed).unwrap();
    assert!(!text.contains(&"a5".repeat(8)));
    assert!(!format!("{key:?}").contains(key.to_text().trim()));
}

#[test]
fn every_altered_field_is_refused() {
    let key = SealKey::generate();
    let good = seal(&exported(), &key.public().unwrap()).unwrap();
    let flip = |text: &str| {
        let last = if text.ends_with('0') { '1' } else { '0' };
        format!("{}{last}", &text[..text.len() - 1])
    };
    for bad in [
        Sealed { session: flip(&good.session), ..good.clone() },
        Sealed { source: "gw-x".to_owned(), ..good.clone() },
        Sealed { source: "Not A Name".to_owned(), ..good.clone() },
        Sealed { encapsulated_key: flip(&good.encapsulated_key), ..good.clone() },
        Sealed { encapsulated_key: String::new(), ..good.clone() },
        Sealed { ciphertext: flip(&good.ciphertext), ..good.clone() },
        Sealed { ciphertext: "0".to_owned(), ..good.clone() },
        Sealed { ciphertext: "zz".to_owned(), ..good.clone() },
    ] {
        assert_eq!(key.open(&bad, &name("gw-b")), Err(SealError::CannotOpen), "{bad:?}");
    }
    let bad = Sealed { format: "cxtp-sealed-session/9".to_owned(), ..good };
    assert!(matches!(key.open(&bad, &name("gw-b")), Err(SealError::WrongFormat(_))));
}

#[test]
fn keys_go_through_text() {
    let key = SealKey::generate();
    let again = SealKey::from_text(&key.to_text()).unwrap();
    assert_eq!(key.public().unwrap(), again.public().unwrap());
    let public = key.public().unwrap();
    assert_eq!(public.to_string().parse::<PublicSealKey>().unwrap(), public);
    assert_eq!("abc".parse::<PublicSealKey>(), Err(SealError::BadKey));
    assert!(matches!(SealKey::from_text("00"), Err(SealError::BadKey)));
}

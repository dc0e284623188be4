use std::net::SocketAddr;

use proptest::prelude::*;
use protocol_spec::samples;

use super::*;
use crate::ike::crypt::Iv;

fn terms(shared_key: &[u8]) -> Terms {
    Terms {
        identity: Identification { kind: 2, data: b"gw.example.org".to_vec() },
        shared_key: KeyMaterial::new(shared_key.to_vec()),
        spi: 0x1112_1314_1516_1718,
        child_spi: 0xc000_0001,
        virtual_ip: Ipv4Addr::new(10, 9, 0, 1),
    }
}

fn path() -> Path {
    let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
    Path { source: address("198.51.100.7:4500"), destination: address("192.0.2.1:4500") }
}

/// An end user, only as far as the handshake needs one.
struct User {
    private: agreement::EphemeralPrivateKey,
    request: Vec<u8>,
}

const NONCE_INITIATOR: [u8; 32] = [1; 32];

fn header(exchange: u8, message_id: u32, spi_responder: u64) -> Header {
    Header {
        spi_initiator: 7,
        spi_responder,
        next: SA,
        exchange,
        from_initiator: true,
        response: false,
        message_id,
    }
}

fn user(transforms: &[Transform]) -> User {
    let rng = SystemRandom::new();
    let private = agreement::EphemeralPrivateKey::generate(&agreement::X25519, &rng).unwrap();
    let public = private.compute_public_key().unwrap();
    let proposal =
        Proposal { number: 1, protocol: 1, spi: Vec::new(), transforms: transforms.to_vec() };
    let payloads = [
        Payload::new(SA, proposal::write(&proposal)),
        Payload::new(KEY_EXCHANGE, [&[0, 31, 0, 0], public.as_ref()].concat()),
        Payload::new(NONCE, NONCE_INITIATOR.to_vec()),
    ];
    let mut chain = Vec::new();
    write_chain(&payloads, &mut chain).unwrap();
    let head = header(SA_INIT, 0, 0).write(HEADER + chain.len()).unwrap();
    User { private, request: [&head[..], &chain].concat() }
}

fn sent(step: Step) -> Vec<u8> {
    match step {
        Step::Send(datagram) => datagram,
        Step::Established(_) => panic!("too early"),
    }
}

impl User {
    /// The IKE_AUTH request, and the IKE SA as this end has it.
    fn authenticate(self, response: &[u8], shared_key: &[u8]) -> (Vec<u8>, IkeSa) {
        let head = Header::parse(response).unwrap();
        let payloads = read_chain(head.next, &response[HEADER..]).unwrap();
        let public = &body(&payloads, KEY_EXCHANGE).unwrap()[4..];
        let nonce_responder = body(&payloads, NONCE).unwrap().to_vec();
        let theirs = agreement::UnparsedPublicKey::new(&agreement::X25519, public);
        let shared = agreement::agree_ephemeral(self.private, &theirs, |s| s.to_vec()).unwrap();
        let ike = IkeSa {
            spi_initiator: 7,
            spi_responder: head.spi_responder,
            transforms: IkeTransforms {
                encryption: 12,
                key_bits: 256,
                integrity: 12,
                prf: PRF,
                key_exchange: X25519,
            },
            secrets: IkeSecrets::Seed {
                nonce_initiator: NONCE_INITIATOR.to_vec(),
                nonce_responder: nonce_responder.clone(),
                shared: vec![KeyMaterial::new(shared)],
                replaced: None,
            },
            ..samples::ike(0)
        };
        let keys = derive(&ike).unwrap();
        let prf = Prf::from_number(PRF).unwrap();
        let id = [&[3, 0, 0, 0][..], b"eu@example.org"].concat();
        let pad = prf.apply(shared_key, &[b"Key Pad for IKEv2"]);
        let mac = prf.apply(keys.sk_pi.expose(), &[&id]);
        let proof = prf.apply(pad.expose(), &[&self.request, &nonce_responder, mac.expose()]);
        let esp = Proposal {
            number: 1,
            protocol: 3,
            spi: vec![0xc0, 0, 0, 2],
            transforms: ESP[0].to_vec(),
        };
        let selector = [1, 0, 0, 0, 7, 0, 0, 16, 0, 0, 255, 255, 192, 0, 2, 0, 192, 0, 2, 255];
        let payloads = [
            Payload::new(ID_INITIATOR, id),
            Payload::new(AUTHENTICATION, [&[2, 0, 0, 0], proof.expose()].concat()),
            Payload::new(CONFIGURATION, vec![1, 0, 0, 0, 0, 1, 0, 0]),
            Payload::new(SA, proposal::write(&esp)),
            Payload::new(SELECTORS_INITIATOR, selector.to_vec()),
            Payload::new(SELECTORS_RESPONDER, selector.to_vec()),
            Notify::new(kind::MESSAGE_ID_SYNC_SUPPORTED, Vec::new()).payload(),
        ];
        let crypt = Crypt::new(&ike).unwrap();
        let head = header(AUTH, 1, ike.spi_responder);
        (crypt.seal(head, &payloads, &Iv([5; 16])).unwrap(), ike)
    }
}

#[test]
fn an_end_user_with_the_shared_key_is_taken_in() {
    let mut handshake = Handshake::new(terms(b"secret"));
    let user = user(IKE);
    let request = user.request.clone();
    let response = sent(handshake.handle_datagram(&request, path()).unwrap());
    let again = sent(handshake.handle_datagram(&request, path()).unwrap());
    assert_eq!(response, again, "a repeated request gets the same octets");

    let (auth, ike) = user.authenticate(&response, b"secret");
    let Step::Established(established) = handshake.handle_datagram(&auth, path()).unwrap() else {
        panic!("not taken in")
    };
    assert_eq!(derive(&established.ike), derive(&ike));
    assert_eq!(established.child_spis, (0xc000_0001, 0xc000_0002));
    assert_eq!(established.ike.remote_id.data, b"eu@example.org");
    assert!(established.ike.extensions.message_id_sync && !established.ike.extensions.mobike);
    let keys = &established.keys.initiator_to_responder;
    assert_eq!((keys.encryption.len(), keys.integrity.len()), (20, 0));

    let (header, payloads) = Crypt::new(&ike).unwrap().open(&established.datagram).unwrap();
    assert!(header.response && !header.from_initiator);
    let last = Notify::parse(payloads.last().unwrap()).unwrap();
    assert_eq!(last.kind, kind::MESSAGE_ID_SYNC_SUPPORTED);
    let again = sent(handshake.handle_datagram(&auth, path()).unwrap());
    assert_eq!(again, established.datagram);
}

#[test]
fn an_end_user_with_another_key_is_not() {
    let mut handshake = Handshake::new(terms(b"secret"));
    let user = user(IKE);
    let response = sent(handshake.handle_datagram(&user.request, path()).unwrap());
    let (auth, _) = user.authenticate(&response, b"other");
    let refused = handshake.handle_datagram(&auth, path());
    assert!(matches!(refused, Err(IkeError::Forged)));
}

#[test]
fn what_it_cannot_speak_and_what_comes_out_of_turn_is_refused() {
    let mut handshake = Handshake::new(terms(b"secret"));
    let gcm = [Transform::new(1, 20, 256), IKE[2], IKE[3]];
    let refused = handshake.handle_datagram(&user(&gcm).request, path());
    assert!(matches!(refused, Err(IkeError::Malformed(_))));
    let early = header(AUTH, 1, 9).write(HEADER).unwrap();
    assert!(matches!(handshake.handle_datagram(&early, path()), Err(IkeError::NotOurs)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_changed_request_panics(
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
        length in any::<proptest::sample::Index>(),
    ) {
        let mut request = user(IKE).request;
        request[at.index(HEADER + 40)] = value;
        let _ = Handshake::new(terms(b"secret")).handle_datagram(&request, path());
        let mut cut = request[..length.index(request.len())].to_vec();
        if cut.len() >= HEADER {
            let total = u32::try_from(cut.len()).unwrap().to_be_bytes();
            cut[24..28].copy_from_slice(&total);
            prop_assert!(Handshake::new(terms(b"s")).handle_datagram(&cut, path()).is_err());
        }
    }
}

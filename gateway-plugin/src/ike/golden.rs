//! Sessions recorded between two stock daemons, with their keys: what our keys
//! and messages are measured by.

use std::collections::HashMap;

use protocol_spec::{
    KeyMaterial,
    context::{ChildTransforms, IkeKeys, IkeSa, IkeSecrets, IkeTransforms, ReplacedSa, SaKeys},
    samples::{self, hex},
};

/// A recorded session.
pub(super) struct Golden(HashMap<&'static str, &'static str>);

/// All recorded sessions: one for each kind of protection.
pub(super) fn all() -> Vec<Golden> {
    [
        include_str!("golden/aes192-sha384.txt"),
        include_str!("golden/aes256-sha256.txt"),
        include_str!("golden/aes256gcm16.txt"),
        include_str!("golden/chacha20poly1305.txt"),
    ]
    .map(|text| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Golden(lines.map(|line| line.split_once(' ').unwrap()).collect())
    })
    .into()
}

impl Golden {
    fn text(&self, name: &str) -> Option<&'static str> {
        self.0.get(name).copied()
    }

    fn octets(&self, name: &str) -> Vec<u8> {
        self.text(name).map(hex).unwrap_or_default()
    }

    fn key(&self, name: &str) -> KeyMaterial {
        KeyMaterial::new(self.octets(name))
    }

    fn number(&self, name: &str) -> u16 {
        self.text(name).unwrap().parse().unwrap()
    }

    /// IKE SA 1, or IKE SA 2 which replaced it, as the responder's context.
    pub(super) fn ike(&self, number: u8) -> IkeSa {
        let name = |field: &str| format!("ike{number}.{field}");
        let spi = |field| u64::from_be_bytes(self.octets(&name(field)).try_into().unwrap());
        IkeSa {
            spi_initiator: spi("spi_i"),
            spi_responder: spi("spi_r"),
            initiator: false,
            transforms: IkeTransforms {
                encryption: self.number(&name("encryption")),
                key_bits: self.number(&name("key_bits")),
                integrity: self.number(&name("integrity")),
                prf: self.number(&name("prf")),
                key_exchange: 31,
            },
            secrets: IkeSecrets::Seed {
                nonce_initiator: self.octets(&name("nonce_i")),
                nonce_responder: self.octets(&name("nonce_r")),
                shared: vec![self.key(&name("shared"))],
                replaced: (number == 2).then(|| ReplacedSa {
                    prf: self.number("ike1.prf"),
                    sk_d: self.key("ike1.sk_d"),
                }),
            },
            ..samples::ike(0)
        }
    }

    /// The keys that the daemon derived for it.
    pub(super) fn ike_keys(&self, number: u8) -> IkeKeys {
        let key = |field: &str| self.key(&format!("ike{number}.{field}"));
        IkeKeys {
            sk_d: key("sk_d"),
            sk_ai: key("sk_ai"),
            sk_ar: key("sk_ar"),
            sk_ei: key("sk_ei"),
            sk_er: key("sk_er"),
            sk_pi: key("sk_pi"),
            sk_pr: key("sk_pr"),
        }
    }

    /// Transforms, nonces and, with PFS, the secret of Child SA 1 or 2.
    pub(super) fn child(
        &self,
        number: u8,
    ) -> (ChildTransforms, Vec<u8>, Vec<u8>, Vec<KeyMaterial>) {
        let name = |field: &str| format!("child{number}.{field}");
        let transforms = ChildTransforms {
            encryption: self.number(&name("encryption")),
            key_bits: self.number(&name("key_bits")),
            integrity: self.number(&name("integrity")),
        };
        let shared = self.text(&name("shared")).map(|_| self.key(&name("shared")));
        let [nonce_i, nonce_r] = ["nonce_i", "nonce_r"].map(|field| self.octets(&name(field)));
        (transforms, nonce_i, nonce_r, shared.into_iter().collect())
    }

    /// The keys that the daemon derived for it, initiator's and responder's SA.
    pub(super) fn child_keys(&self, number: u8) -> [SaKeys; 2] {
        let key = |field: &str| self.key(&format!("child{number}.{field}"));
        [("ei", "ai"), ("er", "ar")].map(|(e, a)| SaKeys { encryption: key(e), integrity: key(a) })
    }

    /// Encrypted INFORMATIONAL messages: of which IKE SA, octets, what the daemon
    /// says is inside.
    pub(super) fn messages(&self) -> Vec<(u8, Vec<u8>, &'static str)> {
        let message = |number| {
            let name = |field: &str| format!("message{number}.{field}");
            let ike = self.text(&name("ike"))?.parse().unwrap();
            Some((ike, self.octets(&name("octets")), self.text(&name("payloads")).unwrap()))
        };
        (1..).map_while(message).collect()
    }
}

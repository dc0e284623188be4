//! Writes the golden vectors and the fuzz corpus that is made of them.
//!
//! `cargo run -p protocol-spec --example write_vectors` adds the vectors that are
//! not there yet. It never changes one: octets that change are a new version of
//! the protocol, and get a new vector.

mod broken;
mod cases;
mod contexts;
#[path = "../../tests/shape/mod.rs"]
mod shape;
mod signed;

use std::{error::Error, fs, path::Path};

use protocol_spec::{
    codec,
    frame::HEADER,
    message::{Authority, Kind, Message},
};
use serde_json::{Value, json};
use shape::Shape;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vectors = root.join("vectors");
    let corpus = root.join("fuzz/corpus");
    for (name, description, message) in cases::all() {
        let frame = message.to_frame()?;
        let vector = json!({
            "name": name,
            "description": description,
            "message": message.json(),
            "frame": hex(&frame),
        });
        write_vector(&vectors.join("valid"), name, &vector)?;
        seed_corpus(&corpus, name, &message)?;
    }
    for (name, description, error, frame) in broken::all()? {
        let vector = json!({
            "name": name,
            "description": description,
            "error": error,
            "frame": hex(&frame),
        });
        write_vector(&vectors.join("invalid"), name, &vector)?;
        // The longest one teaches a fuzzer nothing.
        if frame.len() < 4096 {
            write_new(&corpus.join("frame"), name, &frame)?;
        }
    }
    for (name, vector) in signed::all()? {
        write_vector(&vectors.join("signed"), name, &vector)?;
    }
    for (name, text) in [
        ("gateway", "cxtp://gateway/gw-a.example"),
        ("controller", "cxtp://controller/c"),
        ("client", "cxtp://client/user-7"),
        ("name", "gw-a.example"),
        ("id", "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"),
        ("role", "cxtp://root/gw-a"),
        ("path", "cxtp://gateway/gw-a/b"),
    ] {
        write_new(&corpus.join("identity"), name, text.as_bytes())?;
    }
    Ok(())
}

/// The message's parts, each for the target that reads such parts.
fn seed_corpus(corpus: &Path, name: &str, message: &Message) -> Done {
    let frame = message.to_frame()?;
    write_new(&corpus.join("frame"), name, &frame)?;
    let body = frame.get(HEADER..).unwrap_or_default();
    let kind = Kind::ALL.iter().position(|kind| *kind == message.kind()).unwrap_or_default();
    let kind = u8::try_from(kind)?;
    write_new(&corpus.join("message"), name, &[&[kind], body].concat())?;
    let authority = match message {
        Message::Pctd(pctd) => {
            for (number, entry) in pctd.entries.iter().enumerate() {
                let octets = codec::encode(&entry.context)?;
                write_new(&corpus.join("context"), &format!("{name}-{number}"), &octets)?;
            }
            return Ok(());
        }
        Message::Ctar(ctar) => &ctar.authority,
        Message::CtReq(request) => &request.authority,
        _ => return Ok(()),
    };
    let octets = match authority {
        Authority::Token(token) => codec::encode(token)?,
        Authority::Order(order) => codec::encode(order)?,
        Authority::Known(_) | Authority::Standby => return Ok(()),
    };
    write_new(&corpus.join("authority"), name, &octets)
}

fn write_vector(folder: &Path, name: &str, vector: &Value) -> Done {
    let text = serde_json::to_string_pretty(vector)? + "\n";
    write_new(folder, &format!("{name}.json"), text.as_bytes())
}

fn write_new(folder: &Path, name: &str, octets: &[u8]) -> Done {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    if !path.exists() {
        fs::write(&path, octets)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

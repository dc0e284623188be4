//! The tables of `spec/8-registries.md` are those of the code, both ways.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

use protocol_spec::{
    message::{Bye, Kind, Message, ReplicaAck, ReplicaDelta},
    profile::{Feature, FeatureSet},
    status::{Refusal, Status},
};

/// The cells of the rows under a heading.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/8-registries.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows: Vec<_> = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
        .skip(1)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect();
    assert!(!rows.is_empty(), "{heading}");
    rows
}

// proves CXTP-4.1-1
#[test]
fn message_types() {
    let critical = |kind: Kind| {
        // The flag as it stands in a frame that was written.
        let frames = [
            Message::Bye(Bye { reason: Refusal::new(Status::Busy, "") }),
            Message::ReplicaDelta(ReplicaDelta { number: 1, complete: true, entries: vec![] }),
            Message::ReplicaAck(ReplicaAck { number: 1 }),
        ];
        let skippable = frames.iter().find(|message| message.kind() == kind);
        skippable.is_none_or(|message| message.to_frame().unwrap()[1] == 0x80)
            && kind != Kind::Heartbeat
    };
    let code: Vec<_> = Kind::ALL
        .iter()
        .map(|kind| {
            let critical = if critical(*kind) { "critical" } else { "skippable" };
            vec![format!("{:#04x}", *kind as u8), kind.name().to_owned(), critical.to_owned()]
        })
        .collect();
    let text: Vec<_> = rows("8.1").into_iter().map(|row| row[..3].to_vec()).collect();
    assert_eq!(text, code);
}

#[test]
fn statuses() {
    let code: Vec<_> = Status::ALL
        .iter()
        .map(|status| vec![format!("{:#04x}", status.code()), status.name().to_owned()])
        .collect();
    let text: Vec<_> = rows("8.2").into_iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(text, code);
    let names: BTreeSet<_> = Status::ALL.iter().map(|status| status.name()).collect();
    assert_eq!(names.len(), Status::ALL.len(), "a name stands twice");
}

#[test]
fn features() {
    let code: Vec<_> = Feature::ALL
        .iter()
        .map(|feature| vec![(*feature as u8).to_string(), feature.name().to_owned()])
        .collect();
    let text: Vec<_> = rows("8.3").into_iter().map(|row| row[..2].to_vec()).collect();
    assert_eq!(text, code);
    for feature in Feature::ALL {
        let set: FeatureSet = [*feature].into_iter().collect();
        assert_eq!(set.0, 1 << (*feature as u8));
        assert!(set.contains(*feature) && set.to_string() == feature.name());
    }
}

/// The critical flags in the vectors are those of the table.
#[test]
fn critical_flags_of_the_vectors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/valid");
    let table = rows("8.1");
    for entry in fs::read_dir(folder).unwrap() {
        let vector: serde_json::Value =
            serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let frame = vector["frame"].as_str().unwrap();
        let row = table.iter().find(|row| row[0] == format!("0x{}", &frame[..2])).unwrap();
        let flags = if row[2] == "critical" { "80" } else { "00" };
        assert_eq!(&frame[2..4], flags, "{}", vector["name"]);
    }
}

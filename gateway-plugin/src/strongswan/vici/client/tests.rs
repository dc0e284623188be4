//! A client against a charon that misbehaves.

use std::{
    io::Write,
    sync::mpsc::{channel, sync_channel},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::*;
use crate::strongswan::vici::{
    error::Malformed,
    fake::{Fake, Script},
};

/// Enough for what answers at once, even on a busy machine.
const LONG: Duration = Duration::from_secs(10);
/// For what is to time out.
const SHORT: Duration = Duration::from_millis(60);

fn ask(client: &mut Client) -> Result<String, ViciError> {
    let answer = client.call("ask", Section::new(), LONG)?;
    Ok(answer.text("it").unwrap())
}

/// Answers one request.
fn answers(value: &'static str) -> Script {
    Box::new(move |mut peer| {
        assert_eq!(peer.request(), "ask");
        peer.answer("it", value);
    })
}

#[test]
fn one_connection_serves_many_calls() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        for value in ["first", "second"] {
            peer.request();
            peer.answer("it", value);
        }
    })]);
    let mut client = Client::new(&fake.path);
    assert_eq!(ask(&mut client).unwrap(), "first");
    assert_eq!(ask(&mut client).unwrap(), "second");
    fake.finish();
}

#[test]
fn an_answer_may_come_in_many_pieces() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        peer.request();
        let message = Section::new().with("it", "a".repeat(3000).as_str());
        for octet in Packet::Response(message).write().unwrap().iter() {
            peer.0.write_all(&[*octet]).unwrap();
        }
    })]);
    assert_eq!(ask(&mut Client::new(&fake.path)).unwrap(), "a".repeat(3000));
    fake.finish();
}

#[test]
fn a_stream_gives_every_event_and_registers_once() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        assert_eq!(peer.register(&Packet::Confirm), "list-sa");
        for _ in 0..2 {
            assert_eq!(peer.request(), "list-sas");
            for number in ["1", "2", "3"] {
                peer.event("list-sa", Section::new().with("n", number));
            }
            peer.write(&Packet::Response(Section::new()));
        }
    })]);
    let mut client = Client::new(&fake.path);
    for _ in 0..2 {
        let mut seen = Vec::new();
        client
            .stream("list-sas", "list-sa", Section::new(), LONG, |event| {
                seen.push(event.number::<u8>("n").unwrap());
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [1, 2, 3]);
    }
    fake.finish();
}

#[test]
fn a_stream_that_goes_on_is_not_late_however_long_it_is() {
    let timeout = Duration::from_millis(200);
    let fake = Fake::new(vec![Box::new(move |mut peer| {
        peer.register(&Packet::Confirm);
        peer.request();
        for _ in 0..8 {
            std::thread::park_timeout(timeout / 4);
            peer.event("one", Section::new());
        }
        peer.write(&Packet::Response(Section::new()));
        // What does not go on is late.
        peer.request();
        peer.event("one", Section::new());
        assert!(peer.read().is_none());
    })]);
    let mut client = Client::new(&fake.path);
    let mut seen = 0;
    let mut each = |_| {
        seen += 1;
        Ok(())
    };
    client.stream("list", "one", Section::new(), timeout, &mut each).unwrap();
    let late = client.stream("list", "one", Section::new(), timeout, &mut each).unwrap_err();
    assert!(matches!(late, ViciError::TimedOut { .. }), "{late}");
    assert_eq!(seen, 9);
    drop(client);
    fake.finish();
}

#[test]
fn a_death_in_the_middle_of_an_answer_is_an_error_at_once_and_the_next_call_works() {
    let half = |mut peer: crate::strongswan::vici::fake::Peer| {
        peer.request();
        let message = Section::new().with("it", "never");
        let octets = Packet::Response(message).write().unwrap();
        peer.0.write_all(&octets[..octets.len() - 1]).unwrap();
    };
    let fake = Fake::new(vec![Box::new(half), answers("reborn")]);
    let mut client = Client::new(&fake.path);
    let within = Deadline::after(LONG / 2);
    assert_eq!(
        ask(&mut client).unwrap_err().to_string(),
        "charon closed the connection during `ask`: end of stream"
    );
    assert!(within.left().is_some());
    assert_eq!(ask(&mut client).unwrap(), "reborn");
    fake.finish();
}

#[test]
fn a_restart_between_two_calls_costs_no_call() {
    let (gone, wait) = channel();
    let first: Script = Box::new(move |mut peer| {
        peer.request();
        peer.answer("it", "old");
        drop(peer);
        gone.send(()).unwrap();
    });
    let fake = Fake::new(vec![first, answers("new")]);
    let mut client = Client::new(&fake.path);
    assert_eq!(ask(&mut client).unwrap(), "old");
    wait.recv().unwrap();
    assert_eq!(ask(&mut client).unwrap(), "new");
    fake.finish();
}

#[test]
fn an_answer_that_comes_too_late_is_not_taken_for_the_next_one() {
    let (timed_out, wait) = channel();
    let late: Script = Box::new(move |mut peer| {
        peer.request();
        wait.recv().unwrap();
        let message = Section::new().with("it", "late");
        // The client has closed: this may fail, and must not reach it.
        let _ = peer.0.write_all(&Packet::Response(message).write().unwrap());
    });
    let fake = Fake::new(vec![late, answers("in time")]);
    let mut client = Client::new(&fake.path);
    assert_eq!(
        client.call("ask", Section::new(), SHORT),
        Err(ViciError::TimedOut { command: "ask".to_owned(), within: SHORT })
    );
    timed_out.send(()).unwrap();
    assert_eq!(ask(&mut client).unwrap(), "in time");
    fake.finish();
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one() {
    let (sent, wait) = channel();
    let two: Script = Box::new(move |mut peer| {
        peer.request();
        peer.answer("it", "asked for");
        peer.answer("it", "not asked for");
        sent.send(()).unwrap();
        assert!(peer.read().is_none(), "the connection is used again");
    });
    let fake = Fake::new(vec![two, answers("asked for again")]);
    let mut client = Client::new(&fake.path);
    assert_eq!(ask(&mut client).unwrap(), "asked for");
    wait.recv().unwrap();
    assert_eq!(ask(&mut client).unwrap(), "asked for again");
    fake.finish();
}

#[test]
fn an_answer_that_drips_for_ever_ends_at_the_deadline() {
    let (stop, stopped) = sync_channel::<()>(0);
    let drip: Script = Box::new(move |mut peer| {
        peer.request();
        peer.0.write_all(&[0, 8, 0, 0, 1]).unwrap();
        let pace = Duration::from_millis(1);
        while stopped.recv_timeout(pace).is_err_and(|e| e.to_string().contains("timed out")) {
            if peer.0.write_all(&[3]).is_err() {
                break;
            }
        }
    });
    let fake = Fake::new(vec![drip]);
    let within = Deadline::after(LONG);
    let error = Client::new(&fake.path).call("ask", Section::new(), SHORT).unwrap_err();
    assert!(matches!(error, ViciError::TimedOut { .. }), "{error}");
    assert!(within.left().is_some());
    drop(stop);
    fake.finish();
}

#[test]
fn a_charon_that_accepts_nobody_ends_at_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vici");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let waiting = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    waiting.connect(&SockAddr::unix(&path).unwrap()).unwrap();
    let error = Client::new(&path).call("ask", Section::new(), SHORT).unwrap_err();
    assert!(error.to_string().contains("nobody accepts the connection"), "{error}");
}

#[test]
fn a_length_without_end_and_garbage_are_refused() {
    let writes = |octets: &'static [u8]| -> Script {
        Box::new(move |mut peer| {
            peer.request();
            peer.0.write_all(octets).unwrap();
        })
    };
    let fake = Fake::new(vec![
        writes(b"\xff\xff\xff\xff"),
        writes(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        writes(b"\x00\x00\x00\x01\x2a"),
        writes(b"\x00\x00\x00\x01\x05"),
        answers("sane"),
    ]);
    let mut client = Client::new(&fake.path);
    let malformed = |reason| ViciError::Malformed { command: "ask".to_owned(), reason };
    assert_eq!(ask(&mut client), Err(malformed(Malformed::Oversized(0xffff_ffff))));
    assert_eq!(ask(&mut client), Err(malformed(Malformed::Oversized(0x4854_5450))));
    assert_eq!(ask(&mut client), Err(malformed(Malformed::PacketType(42))));
    let unexpected = ViciError::Unexpected { command: "ask".to_owned(), kind: "EVENT_CONFIRM" };
    assert_eq!(ask(&mut client), Err(unexpected));
    assert_eq!(ask(&mut client).unwrap(), "sane");
    fake.finish();
}

#[test]
fn unknown_commands_and_events_leave_the_connection_in_use() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        peer.request();
        peer.write(&Packet::UnknownCommand);
        peer.register(&Packet::UnknownEvent);
        peer.request();
        peer.answer("it", "still here");
    })]);
    let mut client = Client::new(&fake.path);
    assert_eq!(ask(&mut client), Err(ViciError::UnknownCommand { command: "ask".to_owned() }));
    let streamed = client.stream("list-x", "list-x", Section::new(), LONG, |_| Ok(()));
    assert_eq!(streamed, Err(ViciError::UnknownEvent { event: "list-x".to_owned() }));
    assert_eq!(ask(&mut client).unwrap(), "still here");
    fake.finish();
}

#[test]
fn a_no_is_told_in_charons_words() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        peer.request();
        let no = Section::new().with("success", "no").with("errmsg", "no matching SAs found");
        peer.write(&Packet::Response(no));
        peer.request();
        peer.answer("success", "yes");
        peer.request();
        peer.answer("matches", "1");
    })]);
    let mut client = Client::new(&fake.path);
    let act = |client: &mut Client| client.act("rekey", Section::new(), LONG);
    assert_eq!(
        act(&mut client).unwrap_err().to_string(),
        "charon refuses `rekey`: no matching SAs found"
    );
    assert!(act(&mut client).is_ok());
    assert_eq!(
        act(&mut client).unwrap_err().to_string(),
        "charon's answer to `rekey`: `success` is missing"
    );
    fake.finish();
}

#[test]
fn no_charon_is_said_with_the_socket_and_a_cure() {
    let error = Client::new("/nowhere/charon.vici").version(SHORT).unwrap_err().to_string();
    assert!(error.contains("/nowhere/charon.vici") && error.contains("is charon running"));
}

use super::*;

#[test]
fn each_reason_for_not_being_connected_says_what_to_do() {
    let cases = [
        (io::ErrorKind::NotFound, "start cxtpd"),
        (io::ErrorKind::ConnectionRefused, "start it again"),
        (io::ErrorKind::PermissionDenied, "control_mode"),
        (io::ErrorKind::WouldBlock, "hangs or is overloaded"),
        (io::ErrorKind::InvalidInput, "cannot be used as a control socket"),
    ];
    for (kind, cure) in cases {
        let problem = not_connected(Path::new("/run/x.sock"), &kind.into());
        assert_eq!(problem.exit, Exit::Unreachable);
        assert!(problem.detail.contains("/run/x.sock") && problem.detail.contains(cure), "{kind}");
    }
}

#[test]
fn a_daemon_that_takes_no_calls_is_not_waited_for_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    // The queue takes one or two callers, whom nobody serves.
    let timeout = Some(Duration::from_millis(50));
    let mut callers = Vec::new();
    let problem = loop {
        match connect(&path, timeout) {
            Ok(caller) => callers.push(caller),
            Err(problem) => break problem,
        }
        assert!(callers.len() < 100, "the queue has no end");
    };
    assert!(problem.detail.contains("does not take calls"), "{problem}");
}

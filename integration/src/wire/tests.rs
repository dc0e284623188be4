use std::thread;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(BUFFER).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..length].to_vec(), from)
}

fn esp(spi: u32, sequence: u32) -> Vec<u8> {
    [spi.to_be_bytes(), sequence.to_be_bytes(), [7; 4], [8; 4]].concat()
}

#[test]
fn an_end_user_keeps_its_address_at_every_gateway() {
    let ((a, a_at), (b, b_at)) = (socket(), socket());
    let ((one, one_at), (two, two_at)) = (socket(), socket());
    let wire = Wire::start(&[a_at, b_at]).unwrap();
    let (front_a, front_b) = (wire.front(0).unwrap(), wire.front(1).unwrap());

    one.send_to(&esp(1, 1), front_a).unwrap();
    let (packet, public_one) = receive(&a);
    assert_eq!(packet, esp(1, 1));
    assert_eq!(wire.public(one_at).unwrap(), public_one);
    two.send_to(&esp(2, 1), front_a).unwrap();
    let (_, public_two) = receive(&a);
    assert_ne!(public_one, public_two);
    assert_eq!(wire.public(two_at).unwrap(), public_two);

    // The session moves: B answers to the address that A knew, and the end user
    // sees that it was B.
    b.send_to(&esp(9, 70_000), public_one).unwrap();
    assert_eq!(receive(&one), (esp(9, 70_000), front_b));
    one.send_to(&esp(1, 2), front_b).unwrap();
    assert_eq!(receive(&b), (esp(1, 2), public_one));
    a.send_to(&esp(9, 1), public_one).unwrap();
    assert_eq!(receive(&one), (esp(9, 1), front_a));

    let figures = wire.observer().figures();
    assert_eq!((figures.to_gateways, figures.to_users), (3, 2));
    assert_eq!(figures.owner_violations, 1, "A spoke after B");
    assert_eq!(wire.dropped(), 0);
}

#[test]
fn a_stranger_cannot_speak_to_end_users() {
    let (gateway, at) = socket();
    let (user, user_at) = socket();
    let wire = Wire::start(&[at]).unwrap();
    let public = wire.public(user_at).unwrap();
    let (stranger, _) = socket();
    stranger.send_to(&esp(1, 1), public).unwrap();
    gateway.send_to(&esp(1, 2), public).unwrap();
    assert_eq!(receive(&user).0, esp(1, 2));
    assert_eq!((wire.dropped(), wire.observer().figures().to_users), (1, 1));
}

/// 20,000 packets/s each way for two seconds, as the demo has them.
#[test]
fn forty_thousand_packets_a_second_pass_without_loss() {
    const USERS: usize = 50;
    const MILLIS: usize = 2000;
    const EACH_MILLI: usize = 20;
    let (gateway, at) = socket();
    let wire = Wire::start(&[at]).unwrap();
    let front = wire.front(0).unwrap();
    let (users, publics): (Vec<_>, Vec<_>) = (0..USERS)
        .map(|_| {
            let (user, user_at) = socket();
            let public = wire.public(user_at).unwrap();
            (user, public)
        })
        .unzip();
    let total = MILLIS * EACH_MILLI;
    let begin = clock::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for step in 0..total {
                users[step % USERS].send_to(&esp(1, step as u32 + 1), front).unwrap();
                pace(begin, step, EACH_MILLI);
            }
        });
        scope.spawn(|| {
            for step in 0..total {
                gateway.send_to(&esp(2, step as u32 + 1), publics[step % USERS]).unwrap();
                pace(begin, step, EACH_MILLI);
            }
        });
        scope.spawn(|| (0..total).for_each(|_| drop(receive(&gateway))));
        for user in &users {
            let user = user.try_clone().unwrap();
            scope.spawn(move || (0..total / USERS).for_each(|_| drop(receive(&user))));
        }
    });
    let figures = wire.observer().figures();
    assert_eq!((figures.to_users, figures.to_gateways), (total as u64, total as u64));
    assert_eq!((figures.seq_reuse, figures.owner_violations, wire.dropped()), (0, 0, 0));
}

fn pace(begin: Instant, step: usize, each_milli: usize) {
    if step.is_multiple_of(each_milli) {
        let due = begin + Duration::from_millis((step / each_milli) as u64);
        thread::sleep(due.saturating_duration_since(clock::now()));
    }
}

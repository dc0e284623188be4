//! A network controller that triggers a handover: it connects to the target over
//! QUIC with a certificate of its own, and hands it a signed order (CTAR) to take
//! sessions from their source. The target shows the order to the source, which
//! verifies it and lets them go.
//!
//! Run it with `cargo run -p examples --example controller`.

use std::{ffi::OsString, fs, net::SocketAddr, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail, ensure};
use cxtp::{
    engine::Moment,
    quic::tls::Credentials,
    service::{
        self, Service,
        api::{Request, Status},
        client::ControlClient,
        config::Config,
    },
};
use examples::Clock;
use gateway_plugin::embedded::{EmbeddedGateway, FleetConfig, GatewayConfig, UserFleet};
use protocol_spec::{
    frame::{HEADER, Header},
    id::{GatewayEpoch, Identity, RequestId, Role, SessionId},
    message::{Authority, Ctaa, Ctar, Hello, Lane, Message, VERSION},
    token::{Order, OrderClaims},
    transfer::TransferMode,
};
use ring::signature::Ed25519KeyPair;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};

#[tokio::main]
async fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (a, b) = (Site::new(dir.path(), "a")?, Site::new(dir.path(), "b")?);
    a.gateway.set_neighbour("b".parse()?, b.gateway.addresses()?.relay);
    b.gateway.set_neighbour("a".parse()?, a.gateway.addresses()?.relay);
    let (mut home, mut other) = (a.gateway.clone(), b.gateway.clone());
    let fleet = FleetConfig { sessions: 5, rate: 100, ..FleetConfig::default() };
    let users = UserFleet::start(fleet, &mut home, &mut [&mut other])?;

    let pki = dir.path().join("pki");
    ctl(&["pki", "init", "--dir", text(&pki)?])?;
    for (role, name) in [("gateway", "a"), ("gateway", "b"), ("controller", "noc")] {
        ctl(&["pki", "issue", "--dir", text(&pki)?, role, name])?;
    }
    let (daemon_a, daemon_b) = (a.start(&pki, &b).await?, b.start(&pki, &a).await?);
    b.when("its peer is up", |status| status.peers.values().all(|state| state == "up")).await?;
    a.when("it has five sessions", |status| status.sessions.get("active") == Some(&5)).await?;

    // All of the above is the world; this is the controller.
    let noc = Identity { role: Role::Controller, name: "noc".parse()? };
    let order = order(&pki, &noc, users.sessions(), Clock::start().now())?;
    println!("\nthe controller orders {} sessions from a to b", order.claims.sessions.len());
    let answer = hand_in(&pki, &noc, b.listen, order).await?;
    for (session, refusal) in &answer.refused {
        println!("b does not take {session}: {refusal}");
    }
    ensure!(answer.refused.is_empty(), "the order was not accepted");
    println!("b accepts");

    b.when("it has them", |status| status.sessions.get("active") == Some(&5)).await?;
    let report = users.stop();
    println!("b has all five; {} packets were lost on the way", report.up.lost + report.down.lost);
    daemon_a.stop().await;
    daemon_b.stop().await;
    Ok(())
}

/// What the controller signs. It counts once, for these sessions, and not for long.
fn order(pki: &Path, noc: &Identity, sessions: Vec<SessionId>, now: Moment) -> Result<Order> {
    let claims = OrderClaims {
        id: RequestId(random()?),
        controller: noc.name.clone(),
        sessions,
        source: "a".parse()?,
        target: "b".parse()?,
        expires: now.unix + 60,
    };
    let key = PrivatePkcs8KeyDer::from_pem_file(pki.join("noc.order.key"))?;
    let key = Ed25519KeyPair::from_pkcs8(key.secret_pkcs8_der())
        .map_err(|error| anyhow::anyhow!("the order key: {error}"))?;
    Order::sign(claims, &key).context("an order of that size")
}

/// Connects, greets, sends the CTAR and waits for its answer.
async fn hand_in(pki: &Path, noc: &Identity, target: SocketAddr, order: Order) -> Result<Ctaa> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.pem"))?)?;
    let chain = vec![CertificateDer::from_pem_file(pki.join("noc.pem"))?];
    let key = PrivateKeyDer::from_pem_file(pki.join("noc.key"))?;
    let expected = Identity { role: Role::Gateway, name: order.claims.target.clone() };
    let crypto = Credentials::new(roots, chain, key).client(expected)?;

    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = endpoint.connect(target, "b")?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    let hello = Message::Hello(Hello {
        versions: (VERSION, VERSION),
        name: noc.name.clone(),
        epoch: GatewayEpoch(0),
        lane: Lane::Control,
        capabilities: None,
    });
    send.write_all(&hello.to_frame()?).await?;
    let Message::Hello(hello) = hear(&mut receive).await? else { bail!("b does not greet") };
    println!("connected to {} in its life {}", hello.name, hello.epoch);

    let request = Ctar {
        request: RequestId(random()?),
        source: order.claims.source.clone(),
        target: order.claims.target.clone(),
        mode: TransferMode::Reactive,
        sessions: order.claims.sessions.clone(),
        authority: Authority::Order(order),
    };
    send.write_all(&Message::Ctar(request).to_frame()?).await?;
    let Message::Ctaa(answer) = hear(&mut receive).await? else { bail!("b does not answer") };
    connection.close(0_u32.into(), b"done");
    endpoint.wait_idle().await;
    Ok(answer)
}

/// The next message of a stream.
async fn hear(stream: &mut quinn::RecvStream) -> Result<Message> {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).await?;
        let header = Header::from_octets(header)?;
        let mut body = vec![0; header.length as usize];
        stream.read_exact(&mut body).await?;
        // `None` is a type that may be skipped.
        if let Some(message) = Message::from_parts(header, &body)? {
            return Ok(message);
        }
    }
}

/// A gateway and its daemon, in this process.
struct Site {
    name: &'static str,
    gateway: EmbeddedGateway,
    listen: SocketAddr,
    home: std::path::PathBuf,
}

impl Site {
    fn new(dir: &Path, name: &'static str) -> Result<Self> {
        // A port that is free, so that both can be told where the other will be.
        let listen = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let gateway = EmbeddedGateway::start(GatewayConfig::default())?;
        let home = dir.join(name);
        fs::create_dir(&home)?;
        Ok(Self { name, gateway, listen, home })
    }

    /// Configures and starts the daemon.
    async fn start(&self, pki: &Path, peer: &Self) -> Result<Service> {
        let file = self.home.join("cxtpd.toml");
        let listen = self.listen.to_string();
        let peer = format!("{}={}", peer.name, peer.listen);
        ctl(&[
            &["pki", "config", "--dir", text(pki)?, self.name, "--listen", &listen] as &[&str],
            &["--peer", &peer, "--allow-pull", "--controller", "noc", "--home", text(&self.home)?],
            &["--gateway-socket", "in-this-process", "--out", text(&file)?],
        ]
        .concat())?;
        Ok(service::start(Config::load(&file)?, Box::new(self.gateway.clone())).await?)
    }

    /// Waits until its daemon is in some state.
    async fn when(&self, what: &str, so: impl Fn(&Status) -> bool) -> Result<()> {
        let clock = Clock::start();
        while clock.now().monotonic.as_secs() < 20 {
            let mut client = ControlClient::connect(self.home.join("control.sock")).await?;
            let status: Status = serde_json::from_value(client.call(&Request::Status).await?)?;
            if so(&status) {
                println!("{}: {what}", self.name);
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        bail!("{}: it does not come to that: {what}", self.name)
    }
}

/// Runs `cxtpctl` and shows how.
fn ctl(args: &[&str]) -> Result<()> {
    println!("$ cxtpctl {}", args.join(" "));
    let args = std::iter::once("cxtpctl").chain(args.iter().copied()).map(OsString::from);
    ensure!(cxtp::ctl::main(args) == ExitCode::SUCCESS, "cxtpctl failed");
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a temporary directory whose name is text")
}

fn random() -> Result<[u8; 16]> {
    let octets = ring::rand::generate(&ring::rand::SystemRandom::new());
    Ok(octets.map_err(|_| anyhow::anyhow!("no random numbers"))?.expose())
}

//! The servers start, keep what they have acknowledged, and go.

use std::{
    io::Read,
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use buttress_test_servers::{PgBouncer, Postgres, Redis};

#[test]
fn postgres_survives_its_crash() {
    let postgres = Postgres::start();
    assert_eq!(postgres.sql("show fsync"), "on");
    postgres.sql("create table kept (n int)");
    postgres.sql("insert into kept values (1)");
    postgres.kill();
    postgres.start_again();
    assert_eq!(postgres.sql("select n from kept"), "1");
    postgres.restart();
    assert_eq!(postgres.sql("select n from kept"), "1");
    let port = postgres.port();
    drop(postgres);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn pgbouncer_stands_before_postgres() {
    let postgres = Postgres::start();
    let bouncer = PgBouncer::start(&postgres);
    assert!(TcpStream::connect(("127.0.0.1", bouncer.port())).is_ok());
    bouncer.restart();
    let port = bouncer.port();
    drop(bouncer);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn redis_survives_its_crash() {
    let redis = Redis::start();
    assert_eq!(redis.ask(&["SET", "kept", "1"]).unwrap(), "+OK");
    redis.kill();
    redis.start_again();
    assert_eq!(redis.ask(&["GET", "kept"]).unwrap(), "1");
    let protected = Redis::start_with(&[("requirepass", "secret")]);
    assert!(protected.ask(&["GET", "kept"]).unwrap().starts_with("-NOAUTH"));
}

/// The process that the next test kills.
#[test]
fn started_by_another_test() {
    if std::env::var_os("BUTTRESS_SERVER_TO_LEAVE").is_some() {
        let servers = (Redis::start(), Postgres::start());
        println!("folder {}", servers.1.socket().display());
        println!("port {}", servers.0.port());
        // Until it is killed.
        drop(std::io::stdin().read(&mut [0]));
    }
}

#[test]
fn a_test_that_is_killed_leaves_no_server() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "started_by_another_test", "--nocapture"])
        .env("BUTTRESS_SERVER_TO_LEAVE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut output = child.stdout.take().unwrap();
    let port: u16 = loop {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "it ended early: {said}");
        said.push(byte[0].into());
        if let Some((_, port)) = said.rsplit_once("port ")
            && let Some(port) = port.strip_suffix('\n')
        {
            break port.parse().unwrap();
        }
    };
    let (_, folder) = said.split_once("folder ").unwrap();
    let folder = Path::new(folder.lines().next().unwrap());
    assert!(folder.join("data").exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    let gone = (0..3_000).any(|_| {
        let gone = TcpStream::connect(("127.0.0.1", port)).is_err() && !folder.exists();
        if !gone {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        gone
    });
    assert!(gone, "a server outlived its test");
}

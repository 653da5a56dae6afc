use std::io::Write as _;
use std::thread;

use super::*;
use crate::protocol::{FRAME_DATA, FRAME_MESSAGE, FailureKind, Request, Sandbox, VERSION, write_data, write_message};

/// A client whose other end first takes `requests` frames, and then says `bytes` and nothing more.
fn against(requests: usize, bytes: Vec<u8>) -> (Client, thread::JoinHandle<UnixStream>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        for _ in 0..requests {
            assert!(read_frame::<Request>(&mut theirs).unwrap().is_some());
        }
        // The client may have hung up already.
        let _ = theirs.write_all(&bytes);
        let _ = theirs.shutdown(std::net::Shutdown::Write);
        theirs
    });
    (Client::new(ours), agent)
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    bytes
}

fn message(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_message(&mut bytes, reply).unwrap();
    bytes
}

fn data(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_data(&mut bytes, content).unwrap();
    bytes
}

#[test]
fn a_hostile_agent_ends_the_conversation() {
    let names = |name: &str| message(&Reply::Names { names: vec![name.to_string()] });
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame of 4 GB", [&[FRAME_MESSAGE][..], &u32::MAX.to_le_bytes()].concat()),
        ("an unknown kind", frame(9, b"x")),
        ("no JSON", frame(FRAME_MESSAGE, b"{{{")),
        ("no reply", frame(FRAME_MESSAGE, b"{\"reply\":\"sudo\"}")),
        ("data", frame(FRAME_DATA, b"x")),
        ("another reply", message(&Reply::Done)),
        ("nested JSON", frame(FRAME_MESSAGE, "[".repeat(100_000).as_bytes())),
        ("a path as a name", names("../../etc/passwd")),
        ("a parent as a name", names("..")),
        ("an empty name", names("")),
    ];
    for (case, bytes) in cases {
        let (mut client, agent) = against(1, bytes);
        let result = client.read_dir("/");
        assert!(matches!(result, Err(ClientError::Protocol(_) | ClientError::Stream(_))), "{case}: {result:?}");
        // And it stays ended.
        assert!(matches!(client.read_dir("/"), Err(ClientError::Closed)), "{case}");
        drop(client);
        agent.join().unwrap();
    }
}

#[test]
fn a_truncated_stream_is_no_end_of_file() {
    let (mut client, agent) = against(1, data(b"abc"));
    assert!(matches!(client.read("/x", 100), Err(ClientError::Closed)));
    agent.join().unwrap();
    let mut bytes = data(b"abc");
    bytes.truncate(6);
    let (mut client, agent) = against(1, bytes);
    assert!(matches!(client.read("/x", 100), Err(ClientError::Stream(_))));
    agent.join().unwrap();
}

#[test]
fn reading_is_bounded() {
    let (mut client, agent) = against(1, [data(b"abc"), data(b"defg")].concat());
    assert!(matches!(client.read("/x", 6), Err(ClientError::Protocol(_))));
    agent.join().unwrap();
    let (mut client, agent) = against(1, [data(b"abc"), data(b"def"), data(b""), message(&Reply::Done)].concat());
    assert_eq!(client.read("/x", 6).unwrap(), b"abcdef");
    agent.join().unwrap();
}

#[test]
fn a_failure_leaves_the_conversation_open() {
    let failure = Failure { kind: FailureKind::NotFound, message: "no".into() };
    let bytes = [message(&Reply::Failed(failure.clone())), message(&Reply::Stat { stat: None })].concat();
    let (mut client, agent) = against(1, bytes);
    match client.read("/x", 6) {
        Err(ClientError::Failed(given)) => assert_eq!(given, failure),
        other => panic!("{other:?}"),
    }
    assert_eq!(client.stat("/x").unwrap(), None);
    agent.join().unwrap();
}

#[test]
fn versions_must_agree() {
    let (mut client, agent) = against(1, message(&Reply::Welcome { version: VERSION + 1 }));
    let error = client.hello(Sandbox::Bubblewrap { program: "bwrap".into() }).unwrap_err();
    assert!(error.to_string().contains("version"), "{error}");
    agent.join().unwrap();
}

#[test]
fn a_request_that_is_too_long_is_not_sent() {
    let (mut client, agent) = against(1, message(&Reply::Stat { stat: None }));
    let error = client.stat(&"x".repeat(crate::protocol::MAX_FRAME)).unwrap_err();
    assert!(matches!(error, ClientError::Local(_)), "{error:?}");
    assert_eq!(client.stat("/").unwrap(), None);
    agent.join().unwrap();
}

#[test]
fn a_welcome_is_heard_without_waiting() {
    let welcome = message(&Reply::Welcome { version: VERSION });
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut client = Client::new(ours);
    client.say_hello(Sandbox::Machine).unwrap();
    // Byte by byte, and with the next answer behind it.
    for byte in &welcome[..welcome.len() - 1] {
        assert!(client.heard_welcome().unwrap().is_none());
        theirs.write_all(&[*byte]).unwrap();
    }
    theirs.write_all(&[&welcome[welcome.len() - 1..], &message(&Reply::Done)].concat()).unwrap();
    assert!(client.heard_welcome().unwrap().is_some());
    client.done(&Request::Thaw).unwrap();

    for (case, bytes) in [
        ("garbage", vec![0xff; 4096]),
        ("4 GiB", [&[FRAME_MESSAGE][..], &u32::MAX.to_le_bytes()].concat()),
        ("a flood", data(&[7; 1 << 16])),
        ("data", data(b"x")),
        ("nothing", frame(FRAME_MESSAGE, b"")),
        ("another version", message(&Reply::Welcome { version: VERSION + 1 })),
        ("another answer", message(&Reply::Done)),
    ] {
        let (mut client, agent) = against(1, bytes);
        client.say_hello(Sandbox::Machine).unwrap();
        agent.join().unwrap();
        let heard = client.heard_welcome();
        assert!(matches!(heard, Err(ClientError::Protocol(_))), "{case}: {heard:?}");
        assert!(matches!(client.stat("/"), Err(ClientError::Closed)), "{case}");
    }
    let (mut client, agent) = against(1, welcome[..7].to_vec());
    client.say_hello(Sandbox::Machine).unwrap();
    agent.join().unwrap();
    assert!(matches!(client.heard_welcome(), Err(ClientError::Closed)));
}

#[test]
fn notes_without_end_are_not_taken() {
    let note = |text: String| message(&Reply::Note { text });
    for notes in [vec![note("n".into()); NOTES_MAX + 1].concat(), note("n".repeat(NOTE_MAX + 1))] {
        let (mut client, agent) = against(1, notes);
        let mut taken = 0;
        let ended = client.run_noting(&Run::default(), &mut |_| (), &mut |_| taken += 1);
        assert!(matches!(ended, Err(ClientError::Protocol(_))) && taken <= NOTES_MAX, "{ended:?}");
        agent.join().unwrap();
    }
}

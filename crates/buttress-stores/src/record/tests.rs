use super::*;

fn record() -> (Record, Payload) {
    let key = CheckpointKey::new(WorkflowId::new("w").unwrap());
    let put = Put::new(key, Some(6), *b"\0state").phase("two").metadata("a", 0.1);
    let mut chain = ChainState::default();
    chain.last = u64::MAX;
    chain.holder = Some(("me".to_owned(), time(u64::MAX / 2)));
    (Record::of_put(&put, 7, chain), put.state)
}

#[tokio::test]
async fn a_record_comes_back() {
    let (mut record, state) = record();
    (record.before, record.floor) = (vec![WriteId::random(), record.id], 3);
    let bytes = record.encode(&Body::of_state(&state).await.unwrap()).await.unwrap();
    let found = Record::decode(bytes).await.unwrap().unwrap();
    assert_eq!((found.key, found.sequence, found.id), (record.key, 7, record.id));
    assert_eq!((found.chain, found.before, found.floor), (record.chain, record.before, 3));
    let (Entry::Checkpoint(found), Entry::Checkpoint(mut put)) = (found.entry, record.entry) else {
        panic!("a checkpoint")
    };
    put.state = state;
    assert_eq!(found, put);
}

#[tokio::test]
async fn writes_come_back() {
    let (mut record, _) = record();
    let writes = vec![
        TaskWrite::new("a\0", WriteKind::Result, 0, *b"one"),
        TaskWrite::new("b", WriteKind::Route, u32::MAX, *b""),
    ];
    record.entry = Entry::Writes(3, writes.clone());
    let bytes = record.encode(&Body::of_writes(&writes).await.unwrap()).await.unwrap();
    let found = Record::decode(bytes).await.unwrap().unwrap();
    assert!(matches!(found.entry, Entry::Writes(3, found) if found == writes));
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_seen() {
    let (record, state) = record();
    let bytes = record.encode(&Body::of_state(&state).await.unwrap()).await.unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(Record::decode_now(&damaged), Err(Unreadable::Corrupt(_))), "{bit}");
    }
    for length in 0..bytes.len() {
        let cut = Record::decode_now(&bytes[..length]);
        assert!(matches!(cut, Err(Unreadable::Corrupt(_))), "{length}");
    }
}

#[test]
fn a_record_of_a_newer_program_is_told_apart() {
    let body = Body { bytes: Payload::default(), sum: Hasher::oneshot(b"") };
    let bytes = frame(b'c', br#"{"format":2,"odd":true}"#, &body);
    assert_eq!(Record::decode_now(&bytes).unwrap_err(), Unreadable::TooNew(2));
}

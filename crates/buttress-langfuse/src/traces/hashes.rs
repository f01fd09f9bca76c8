//! How ids are hashed: they are random bits already.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Hashes the ids of traces, which whoever calls this process may choose: so with a secret.
#[derive(Clone)]
pub(super) struct TraceHashes([u64; 2]);

impl Default for TraceHashes {
    fn default() -> Self {
        let secret = RandomState::new();
        Self([secret.hash_one(0), secret.hash_one(1)])
    }
}

impl BuildHasher for TraceHashes {
    type Hasher = TraceHasher;

    fn build_hasher(&self) -> TraceHasher {
        TraceHasher { secret: self.0, hash: 0 }
    }
}

pub(super) struct TraceHasher {
    secret: [u64; 2],
    hash: u64,
}

impl Hasher for TraceHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u128((*byte).into()));
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    fn write_u128(&mut self, id: u128) {
        let [low, high] = [id as u64, (id >> 64) as u64];
        let [first, second] = self.secret;
        let product = u128::from(low ^ first) * u128::from(high ^ second ^ self.hash);
        self.hash = product as u64 ^ (product >> 64) as u64;
    }
}

/// Hashes the ids of spans, which this process draws at random: nobody can choose them alike.
#[derive(Default)]
pub(super) struct SpanHasher(u64);

impl Hasher for SpanHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, id: u64) {
        // A provider of the user's may count its spans: the product spreads their bits.
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

//! Many keys: what a keyed breaker holds for each, and how long it takes to find one.

use std::hint::black_box;

use buttress::CircuitBreakerLayer;
use buttress_benches::drive::{Answers, call, discard};
use tower::Layer as _;

use crate::measure::{Effort, Table, count, nanos_once};

pub(crate) fn table(effort: Effort) -> Table {
    let mut table = Table::new(
        "keys",
        &["bytes per key", "ns to add one", "ns a call, one key", "ns a call, any key"],
    );
    for keys in effort.of(&[1, 1_000, 10_000, 100_000, 1_000_000], 10_000) {
        // Parts are filled by chance, so some room is left for the fullest.
        let layer = CircuitBreakerLayer::keyed("model", |key: &u64| *key).capacity(keys * 2);
        let circuits = layer.circuits();
        let mut service = layer.layer(Answers);
        let all = count(keys);
        let mut added = 0.0;
        let held = allocation_counter::measure(|| {
            let mut key = 0;
            added = nanos_once(keys, || {
                discard(call(&mut service, black_box(key)));
                key += 1;
            });
        });
        assert_eq!(circuits.iter().count(), keys, "every key has its circuit");
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let bytes = held.bytes_current as f64 / all;
        let one = effort.nanos(100_000, || discard(call(&mut service, black_box(0))));
        let mut random = 1_u64;
        let any = effort.nanos(100_000, || {
            // Weyl's sequence visits the keys in an order that no cache foresees.
            random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let key = (random >> 32) % keys as u64;
            discard(call(&mut service, black_box(key)));
        });
        table.row(keys, [bytes, added, one, any]);
    }
    table
}

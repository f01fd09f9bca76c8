//! Many layers: breakers around breakers.

use std::hint::black_box;

use buttress::TimeoutLayer;
use buttress_benches::{
    drive::{call, discard},
    stacked,
    stacks::{TIMEOUT, breaker},
};
use tower::Service;

use crate::measure::{Effort, Table};

fn nanos<S: Service<u64>>(effort: Effort, mut service: S) -> f64 {
    effort.nanos(100_000, || discard(call(&mut service, black_box(35))))
}

pub(crate) fn table(effort: Effort) -> Table {
    let mut table = Table::new("layers", &["ns, circuit breakers", "ns, timeouts"]);
    let timeout = || TimeoutLayer::new(TIMEOUT);
    macro_rules! row {
        ($layers:literal: $($each:tt)*) => {
            table.row($layers, [
                nanos(effort, stacked!(breaker(); $($each)*)),
                nanos(effort, stacked!(timeout(); $($each)*)),
            ]);
        };
    }
    row!(1: +);
    row!(2: + +);
    row!(4: + + + +);
    row!(8: + + + + + + + +);
    row!(16: + + + + + + + + + + + + + + + +);
    table
}

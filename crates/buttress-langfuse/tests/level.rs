//! Delivery leaves alone what the process listens to: alone in a binary, as levels are global.

use std::time::Duration;

use buttress_langfuse::Langfuse;
use tracing::level_filters::LevelFilter;

#[test]
fn delivery_switches_no_callsite_on() {
    let builder = Langfuse::builder().public_key("pk-lf-test").secret_key("sk-lf-test");
    let langfuse = builder.base_url("http://127.0.0.1:9").start().unwrap();
    // The thread has run when this returns.
    langfuse.shutdown(Duration::from_secs(60)).unwrap();
    assert_eq!(LevelFilter::current(), LevelFilter::OFF);
}

//! Calls with a request that costs to clone: 8 KiB of text. Making it is in the time of each case.

use std::hint::black_box;

use buttress_benches::{
    drive::{call, discard},
    measure::Case,
};
use tower::Service;

/// Makes a case of calls of a service.
pub(crate) fn prompts<S: Service<String> + 'static>(name: &str, mut service: S) -> Case {
    asked(name, move |prompt| discard(call(&mut service, prompt)))
}

/// Makes a case of calls of whatever takes a prompt.
pub(crate) fn asked(name: &str, mut ask: impl FnMut(String) + 'static) -> Case {
    let prompt = "AAPL ".repeat(1_639);
    Case::new("prompt_8k", name, move || ask(black_box(prompt.clone()))).calls(20_000)
}

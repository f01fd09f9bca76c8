//! Random graphs against an interpreter that runs one node after another.

use buttress::checkpoint::Page;
use fastrand::Rng;

use super::*;

/// Sums up, and keeps the order of visits: both by reducers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Sum {
    sum: u64,
    visits: Vec<(usize, u64)>,
}

/// Which node it was, and what it adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Add(usize, u64);

impl State for Sum {
    type Update = Add;

    fn apply(&mut self, Add(node, number): Add) {
        self.sum = self.sum.wrapping_add(number);
        self.visits.push((node, number));
    }
}

/// What a node does, and where it leads.
#[derive(Debug, Clone)]
struct Plan {
    factor: u64,
    /// Nodes behind it whatever happens; the number of nodes is the end.
    edges: Vec<usize>,
    /// Nodes of which the sum chooses one.
    choices: Vec<usize>,
    /// A node, and how many calls of it the sum chooses; it goes nowhere else then.
    sends: Option<usize>,
}

#[derive(Debug, PartialEq)]
enum Ended {
    At(Sum),
    Limit(Sum),
}

const LIMIT: u64 = 40;

fn random(rng: &mut Rng) -> Vec<Plan> {
    let nodes = rng.usize(1..=30);
    let plans = (0..nodes).map(|node| {
        let mut other = || match rng.u8(..8) {
            0 => rng.usize(..=nodes),
            _ => rng.usize(node + 1..=nodes),
        };
        // The next one, so that all are reached; others forwards, and sometimes backwards.
        let mut edges = vec![node + 1];
        if node % 4 == 0 {
            edges.push(other());
        }
        let choices = if node % 3 == 1 { (0..3).map(|_| other()).collect() } else { Vec::new() };
        let sends = (rng.u8(..8) == 0).then(|| rng.usize((node + 1).min(nodes - 1)..nodes));
        Plan { factor: rng.u64(1..100), edges, choices, sends }
    });
    plans.collect()
}

/// What a node answers to a state.
fn update(node: usize, plan: &Plan, state: &Sum) -> Add {
    Add(node, state.sum.wrapping_mul(plan.factor).wrapping_add(state.visits.len() as u64))
}

fn sent(state: &Sum) -> u64 {
    state.sum % 4
}

fn choice(plan: &Plan, state: &Sum) -> usize {
    usize::try_from(state.sum % plan.choices.len() as u64).unwrap()
}

/// The interpreter: as short as the rules.
fn interpret(plans: &[Plan]) -> Ended {
    let mut state = Sum { sum: 1, ..Sum::default() };
    let mut next = vec![(0, None)];
    for _ in 0..LIMIT {
        let base = state.clone();
        let inputs: Vec<Sum> = next
            .iter()
            .map(|(_, own): &(usize, Option<Sum>)| own.clone().unwrap_or_else(|| base.clone()))
            .collect();
        for ((node, _), input) in next.iter().zip(&inputs) {
            state.apply(update(*node, &plans[*node], input));
        }
        let (mut nodes, mut sends) = (Vec::new(), Vec::new());
        for ((node, _), input) in next.iter().zip(&inputs) {
            let plan = &plans[*node];
            match plan.sends {
                Some(to) if sent(input) > 0 => {
                    sends.extend(
                        (0..sent(input)).map(|sum| (to, Some(Sum { sum, ..Sum::default() }))),
                    );
                }
                _ => {
                    nodes.extend(&plan.edges);
                    nodes.extend(
                        (!plan.choices.is_empty()).then(|| plan.choices[choice(plan, &state)]),
                    );
                }
            }
        }
        nodes.retain(|node| *node < plans.len());
        nodes.sort_unstable();
        nodes.dedup();
        next = nodes.into_iter().map(|node| (node, None)).chain(sends).collect();
        if next.is_empty() {
            return Ended::At(state);
        }
    }
    Ended::Limit(state)
}

fn build(plans: &[Plan]) -> CompiledGraph<Sum> {
    let name = |node: usize| if node == plans.len() { END.to_owned() } else { format!("n{node}") };
    let mut graph = StateGraph::<Sum>::new("random").recursion_limit(LIMIT).add_edge(START, "n0");
    for (node, plan) in plans.iter().enumerate() {
        let own = plan.clone();
        let target = plan.sends.map(name);
        let service = Node::request_fn(move |request: NodeRequest<Sum>| {
            let state = request.state;
            let mut command = Command::update(update(node, &own, &state));
            if let Some(target) = &target {
                for sum in 0..sent(&state) {
                    command = command.send(target, Sum { sum, ..Sum::default() });
                }
            }
            async move {
                // Whoever is first to answer must not matter.
                for _ in 0..fastrand::u8(..3) {
                    tokio::task::yield_now().await;
                }
                Ok::<_, io::Error>(command)
            }
        });
        graph = graph.add_node(name(node), service);
        for edge in &plan.edges {
            graph = graph.add_edge(name(node), name(*edge));
        }
        if !plan.choices.is_empty() {
            let own = plan.clone();
            let router = move |state: &Sum, _: Result<(), &Failure>| {
                Route::to(choice(&own, state).to_string())
            };
            let routes = plan.choices.iter().enumerate();
            let routes = routes.map(|(label, to)| (label.to_string(), name(*to)));
            graph = graph.add_conditional_edges(name(node), router, routes);
        }
    }
    graph.store(MemoryStore::new()).compile().unwrap()
}

#[tokio::test]
async fn a_random_graph_runs_as_an_interpreter_does() {
    let (mut ends, mut limits, mut steps) = (0, 0, 0);
    for seed in 0..300 {
        let plans = random(&mut Rng::with_seed(seed));
        let expected = interpret(&plans);
        let graph = build(&plans);
        let found = match graph.run(&id(), Sum { sum: 1, ..Sum::default() }).await {
            Ok(state) => Ended::At(state),
            Err(error) => {
                let kind = error.kind();
                assert!(matches!(kind, GraphErrorKind::RecursionLimit { .. }), "{seed}: {error:?}");
                let newest = graph.history(&id(), Page::newest(1)).await.unwrap();
                Ended::Limit(newest.into_iter().next().unwrap().state)
            }
        };
        assert_eq!(found, expected, "seed {seed}: {plans:#?}");
        match found {
            Ended::At(state) => (ends, steps) = (ends + 1, steps + state.visits.len()),
            Ended::Limit(_) => limits += 1,
        }
    }
    println!("{ends} graphs came to their ends in {steps} visits, {limits} to the limit");
    assert!(ends > 30 && limits > 30, "{ends} ends, {limits} limits");
}

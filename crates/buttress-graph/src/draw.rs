use std::fmt::Write as _;

use crate::{CompiledGraph, END, START, State};

impl<S: State> CompiledGraph<S> {
    /// Draws the graph in Mermaid's language.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = String::from("graph TD;\n");
        for (place, name) in self.names().into_iter().enumerate() {
            _ = writeln!(text, "    n{place}[\"{}\"];", name.replace('"', "#quot;"));
        }
        for (from, to, label) in self.places() {
            _ = match label {
                Some(label) => {
                    let label = label.replace('"', "#quot;");
                    writeln!(text, "    n{from} -. \"{label}\" .-> n{to};")
                }
                None => writeln!(text, "    n{from} --> n{to};"),
            };
        }
        text
    }

    /// Draws the graph in Graphviz's language.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut text = format!("digraph {:?} {{\n", self.name());
        for (place, name) in self.names().into_iter().enumerate() {
            _ = writeln!(text, "    n{place} [label={name:?}];");
        }
        for (from, to, label) in self.places() {
            _ = match label {
                Some(label) => {
                    writeln!(text, "    n{from} -> n{to} [label={label:?}, style=dashed];")
                }
                None => writeln!(text, "    n{from} -> n{to};"),
            };
        }
        text.push_str("}\n");
        text
    }

    fn names(&self) -> Vec<&str> {
        let nodes = self.nodes().iter().map(|node| &*node.name);
        std::iter::once(START).chain(nodes).chain([END]).collect()
    }

    /// Returns the ways by the places of their names.
    fn places(&self) -> Vec<(usize, usize, Option<&str>)> {
        let mut ways = Vec::new();
        let nodes = self.nodes().iter().map(|node| &node.ways);
        for (from, leads) in std::iter::once(self.entry()).chain(nodes).enumerate() {
            // START comes before the nodes.
            ways.extend(leads.edges.iter().map(|to| (from, to + 1, None)));
            let routes = leads.branches.iter().flat_map(|branch| &branch.routes);
            ways.extend(routes.map(|(label, to)| (from, to + 1, Some(&**label))));
        }
        ways
    }
}

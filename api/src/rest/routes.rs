//! Which routes there are: those that the descriptors have, and those that one of them would hide.
//!
//! `POST /events/batch` hides `GET /events/{transaction_id}` of the event `batch`, since the router
//! goes by the path before it looks at the verb. So each fixed path also gets the verbs of the paths
//! with variables that would hold it.

use crate::descriptors::{Binding, Rpc};
use std::collections::BTreeSet;

/// A route, and the rpc that it leads to.
pub struct Route<'a> {
    pub path: String,
    pub rpc: &'a Rpc,
    pub binding: &'a Binding,
    /// Variables of the binding that the path itself fixes.
    pub fixed: Vec<(String, String)>,
}

/// All routes of these rpcs, none twice.
pub fn all(rpcs: &[Rpc]) -> Vec<Route<'_>> {
    let bindings: Vec<(&Rpc, &Binding)> =
        rpcs.iter().flat_map(|rpc| rpc.bindings.iter().map(move |one| (rpc, one))).collect();
    let mut taken: BTreeSet<(&str, &str)> =
        bindings.iter().map(|(_, one)| (one.path.as_str(), one.method.as_str())).collect();
    let mut routes: Vec<Route<'_>> = Vec::with_capacity(bindings.len());
    for (rpc, binding) in &bindings {
        routes.push(Route { path: binding.path.clone(), rpc, binding, fixed: Vec::new() });
    }
    for (_, hiding) in &bindings {
        for (rpc, hidden) in &bindings {
            let Some(fixed) = held(&hidden.path, &hiding.path) else { continue };
            if !fixed.is_empty() && taken.insert((&hiding.path, hidden.method.as_str())) {
                routes.push(Route { path: hiding.path.clone(), rpc, binding: hidden, fixed });
            }
        }
    }
    routes
}

/// What the variables of `template` are in a path without any; none when it does not hold it.
fn held(template: &str, path: &str) -> Option<Vec<(String, String)>> {
    let (parts, held) = (template.split('/'), path.split('/'));
    if path.contains('{') || parts.clone().count() != held.clone().count() {
        return None;
    }
    let mut fixed = Vec::new();
    for (part, text) in parts.zip(held) {
        match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => fixed.push((name.to_owned(), text.to_owned())),
            None if part == text => {}
            None => return None,
        }
    }
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors;
    use http::Method;

    #[test]
    fn a_fixed_path_hides_no_verb_of_a_path_with_variables() {
        let routes = all(descriptors::rpcs());
        let found = |method: Method, path: &str| {
            let mut matching =
                routes.iter().filter(|route| route.binding.method == method && route.path == path);
            let route = matching.next()?;
            assert!(matching.next().is_none(), "{method} {path} twice");
            Some((route.rpc.label.as_str(), route.fixed.clone()))
        };
        let fixed = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
        assert_eq!(
            found(Method::GET, "/api/billing/v2/events/batch"),
            Some(("EventService.Get", fixed("transaction_id", "batch")))
        );
        assert_eq!(
            found(Method::GET, "/api/billing/v2/customers/list"),
            Some(("CustomerService.Get", fixed("id", "list")))
        );
        assert_eq!(
            found(Method::POST, "/api/billing/v2/customers/list"),
            Some(("CustomerService.List", Vec::new()))
        );
    }
}

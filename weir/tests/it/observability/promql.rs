//! As much of PromQL as it takes to see which metrics and labels a query asks for.

use std::iter::Peekable;
use std::str::Chars;

/// A metric as a query asks for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<Matcher>,
}

/// `label=~"one|other"`, with the alternatives apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Matcher {
    pub label: String,
    pub values: Vec<String>,
}

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub selectors: Vec<Selector>,
    /// Labels of `by (…)` and its like.
    pub grouping: Vec<String>,
}

const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Stand before a grouping as well as before their arguments.
const AGGREGATIONS: [&str; 8] =
    ["sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile"];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// The names in a query. Panics where it is none; promtool says that better.
pub fn names(query: &str) -> Names {
    let mut names = Names::default();
    let mut rest = query.chars().peekable();
    while let Some(next) = rest.peek().copied() {
        match next {
            '"' => drop(string(&mut rest)),
            '[' => drop(until(&mut rest, ']')),
            digit if digit.is_ascii_digit() => drop(word(&mut rest)),
            letter if is_name(letter) => {
                let name = word(&mut rest);
                space(&mut rest);
                match rest.peek() {
                    Some('(') if GROUPING.contains(&name.as_str()) => {
                        let labels = until(&mut rest, ')');
                        let labels = labels.trim_matches(['(', ')']).split(',').map(str::trim);
                        names.grouping.extend(labels.map(str::to_owned));
                    }
                    Some('(') => {}
                    _ if OPERATORS.contains(&name.as_str()) => {}
                    _ if AGGREGATIONS.contains(&name.as_str()) => {}
                    Some('{') => {
                        let matchers = matchers(&mut rest);
                        names.selectors.push(Selector { metric: name, matchers });
                    }
                    _ => names.selectors.push(Selector { metric: name, matchers: Vec::new() }),
                }
            }
            _ => drop(rest.next()),
        }
    }
    names
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}

fn space(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(char::is_ascii_whitespace).is_some() {}
}

fn word(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(letter) = rest.next_if(|letter| is_name(*letter) || *letter == '.') {
        word.push(letter);
    }
    word
}

fn until(rest: &mut Peekable<Chars<'_>>, end: char) -> String {
    let mut text = String::new();
    for letter in rest.by_ref() {
        text.push(letter);
        if letter == end {
            return text;
        }
    }
    panic!("no {end} in {text}");
}

fn string(rest: &mut Peekable<Chars<'_>>) -> String {
    assert_eq!(rest.next(), Some('"'));
    let mut text = until(rest, '"');
    text.pop();
    text
}

fn matchers(rest: &mut Peekable<Chars<'_>>) -> Vec<Matcher> {
    assert_eq!(rest.next(), Some('{'));
    let mut matchers = Vec::new();
    loop {
        while rest.next_if(|next| next.is_ascii_whitespace() || *next == ',').is_some() {}
        if rest.next_if_eq(&'}').is_some() {
            return matchers;
        }
        let label = word(rest);
        while rest.next_if(|next| "=~! \n".contains(*next)).is_some() {}
        let values = string(rest).split('|').map(str::to_owned).collect();
        matchers.push(Matcher { label, values });
    }
}

#[test]
fn the_metrics_and_labels_of_a_query_are_found() {
    let query = r#"histogram_quantile(0.99, sum by (le, rpc) (rate(api_seconds_bucket{
        code!~"Ok|NotFound", rpc="a(b)"}[$__rate_interval]))) > 5e3 or on () vector(0) / up offset 5m"#;
    let found = names(query);
    let metrics: Vec<_> = found.selectors.iter().map(|one| one.metric.as_str()).collect();
    assert_eq!(metrics, ["api_seconds_bucket", "up"]);
    let code = Matcher { label: "code".into(), values: vec!["Ok".into(), "NotFound".into()] };
    let rpc = Matcher { label: "rpc".into(), values: vec!["a(b)".into()] };
    assert_eq!(found.selectors[0].matchers, [code, rpc]);
    assert_eq!(found.grouping, ["le", "rpc", ""]);
}

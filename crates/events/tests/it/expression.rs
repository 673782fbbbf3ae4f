//! Expressions in, values or the place of the fault out.

use proptest::prelude::*;
use weir_events::{
    EXPRESSION_CHARS_MAX, EXPRESSION_DEPTH_MAX, EvaluationError, EventFields, Expression,
    ExpressionValue, Properties, PropertyReader, Reason,
};

const PROPERTIES: &str = r#"{
    "tokens": 9007199254740993, "price": "0.000002", "small": 0.1, "minus": -7.5, "zero": 0,
    "model": "large", "flag": true, "nothing": null, "huge": 12345678901234567,
    "usage": {"input": 12, "output": {"text": 30}}, "a.b": 5, "usage.input": 99, "größe": 3
}"#;

fn event() -> EventFields<'static> {
    let properties = read(PROPERTIES);
    EventFields { code: "42", timestamp_us: 1_767_268_800_500_000, properties }
}

fn read(properties: &'static str) -> Properties<'static> {
    Box::leak(Box::<PropertyReader>::default()).read(properties)
}

fn parse(text: &str) -> Expression {
    Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn shown(text: &str) -> String {
    match parse(text).evaluate(event()) {
        Ok(ExpressionValue::Number(number)) => number.to_string(),
        Ok(ExpressionValue::Text(text)) => format!("'{text}'"),
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn values_are_those_worked_out_by_hand() {
    for (text, value) in [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 4 - 3", "3"),
        ("10 - (4 - 3)", "9"),
        ("100 / 10 / 5", "2"),
        ("-2 * -3", "6"),
        ("2 - -3", "5"),
        ("--4", "4"),
        ("-event.properties.minus", "7.5"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333"),
        ("2 / 3", "0.666666666667"),
        ("-2 / 3", "-0.666666666667"),
        ("event.properties.tokens * 1", "9007199254740993"),
        ("event.properties.tokens * event.properties.price", "18014398509.481986"),
        ("event.properties.small + event.properties.zero", "0.1"),
        ("event.properties.a.b", "5"),
        ("event.properties.usage.input", "99"),
        ("event.properties.usage.output.text + 1", "31"),
        ("event.properties.größe", "3"),
        ("event.properties.model", "'large'"),
        ("event.properties.flag", "'true'"),
        ("event.code", "'42'"),
        ("event.code + 1", "43"),
        ("event.timestamp", "1767268800.5"),
        ("'it''s'", "'it's'"),
        ("''", "''"),
        ("'12' + 1", "13"),
        ("concat(event.properties.model, '-', 1.50, event.properties.flag)", "'large-1.5true'"),
        ("concat('7', 1) * 2", "142"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(2.345, 2)", "2.35"),
        ("round(1250, -2)", "1300"),
        ("ceil(2.01)", "3"),
        ("ceil(-2.99)", "-2"),
        ("ceil(2.01, 1)", "2.1"),
        ("floor(2.99)", "2"),
        ("floor(-2.01)", "-3"),
        ("floor(1999, 0 - 3)", "1000"),
        ("least(3, 1, 2)", "1"),
        ("greatest(3, event.properties.minus, 2)", "3"),
        ("greatest(0, event.properties.minus)", "0"),
        ("  ( 1 )  ", "1"),
    ] {
        assert_eq!(shown(text), value, "{text}");
    }
}

#[test]
fn an_event_that_has_no_value_is_told_why_by_field() {
    let missing = |name: &str| EvaluationError::Missing { property: name.to_owned() };
    let no_number = |name: &str| EvaluationError::NotANumber { property: name.to_owned() };
    let digits = |name: &str| EvaluationError::TooManyDigits { property: name.to_owned() };
    for (text, error, field, reason) in [
        ("event.properties.absent + 1", missing("absent"), "properties.absent", Reason::Required),
        ("event.properties.nothing", missing("nothing"), "properties.nothing", Reason::Required),
        (
            "event.properties.usage.cached",
            missing("usage.cached"),
            "properties.usage.cached",
            Reason::Required,
        ),
        ("1 * event.properties.model", no_number("model"), "properties.model", Reason::NotANumber),
        ("-event.properties.usage", no_number("usage"), "properties.usage", Reason::NotANumber),
        ("event.properties.huge", digits("huge"), "properties.huge", Reason::TooManyDigits),
        ("'a' + 1", EvaluationError::TextNotANumber, "properties", Reason::NotANumber),
        (
            "1 / event.properties.zero",
            EvaluationError::DivisionByZero,
            "properties",
            Reason::DivisionByZero,
        ),
        ("1 / (1 - 1)", EvaluationError::DivisionByZero, "properties", Reason::DivisionByZero),
        ("round(1, 0.5)", EvaluationError::BadDigits, "properties", Reason::NotANumber),
        ("round(1, 13)", EvaluationError::BadDigits, "properties", Reason::NotANumber),
        (
            "event.properties.tokens * 10",
            EvaluationError::Overflow,
            "properties",
            Reason::TooManyDigits,
        ),
        (
            "9999999999999999 * 9999999999999999",
            EvaluationError::Overflow,
            "properties",
            Reason::TooManyDigits,
        ),
        ("least(1, 'x')", EvaluationError::TextNotANumber, "properties", Reason::NotANumber),
    ] {
        let found = parse(text).evaluate(event()).unwrap_err();
        assert_eq!((found.field().as_str(), found.reason()), (field, reason), "{text}");
        assert_eq!(found, error, "{text}");
    }
    let code = EventFields { code: "calls", ..event() };
    assert_eq!(parse("event.code * 2").evaluate(code), Err(EvaluationError::CodeNotANumber));
}

#[test]
fn a_step_may_have_more_digits_than_the_result() {
    assert_eq!(shown("event.properties.tokens * 1000 / 1000"), "9007199254740993");
}

#[test]
fn a_text_counts_as_a_number_where_a_metric_sums_and_by_its_form_where_it_tells_apart() {
    assert_eq!(parse("event.code").number(event()).unwrap().to_string(), "42");
    let model = parse("event.properties.model");
    let no_number = EvaluationError::NotANumber { property: "model".to_owned() };
    assert_eq!(model.number(event()), Err(no_number));
    assert_eq!(model.text(event()).unwrap(), "large");
    assert_eq!(parse("1.0 * 1").text(event()).unwrap(), "1");
}

#[test]
fn a_text_that_grows_without_end_is_refused() {
    let properties = format!("{{\"x\":\"{}\"}}", "x".repeat(40_000));
    let event = EventFields { properties: read(properties.leak()), ..event() };
    let twice = parse("concat(event.properties.x, event.properties.x)");
    assert_eq!(twice.evaluate(event), Err(EvaluationError::TextTooLong));
    assert_eq!(EvaluationError::TextTooLong.reason(), Reason::TooLong);
}

#[test]
fn a_text_that_is_no_expression_is_refused_at_its_place() {
    for (text, message) in [
        (
            "",
            "expected a number, a 'text', event.…, a function, '-' or '(', the expression ends (character 1)",
        ),
        (
            "1 +",
            "expected a number, a 'text', event.…, a function, '-' or '(', the expression ends (character 4)",
        ),
        (
            "1 + * 2",
            "expected a number, a 'text', event.…, a function, '-' or '(', found \"*\" (character 5)",
        ),
        (
            "+1",
            "expected a number, a 'text', event.…, a function, '-' or '(', found \"+\" (character 1)",
        ),
        ("(1", "expected an operator or ')', the expression ends (character 3)"),
        ("1)", "expected an operator or the end, found \")\" (character 2)"),
        ("1 2", "expected an operator or the end, found \"2\" (character 3)"),
        ("'é' 'x", "expected an operator or the end, found \"'\" (character 5)"),
        ("1 + 'open", "the text has no closing quote (character 5)"),
        ("1e3", "1e3 is no decimal number (character 1)"),
        ("007", "007 is no decimal number (character 1)"),
        ("1.", "1. is no decimal number (character 1)"),
        (
            "2 * 0.1234567890123",
            "0.1234567890123 has more than 16 digits before or 12 after the point (character 5)",
        ),
        (
            "event.id",
            "\"event.id\" is not known: event.code, event.timestamp and event.properties.<name> are (character 1)",
        ),
        (
            "event.properties",
            "\"event.properties\" is not known: event.code, event.timestamp and event.properties.<name> are (character 1)",
        ),
        (
            "event.properties.a..b",
            "\"event.properties.a..b\" is not known: event.code, event.timestamp and event.properties.<name> are (character 1)",
        ),
        (
            "tokens",
            "\"tokens\" is not known: event.code, event.timestamp and event.properties.<name> are (character 1)",
        ),
        (
            "1 + sqrt(2)",
            "there is no function \"sqrt\": concat, round, ceil, floor, least and greatest are (character 5)",
        ),
        (
            "event.code(1)",
            "there is no function \"event.code\": concat, round, ceil, floor, least and greatest are (character 1)",
        ),
        ("round()", "round does not take 0 arguments (character 1)"),
        ("round(1, 2, 3)", "round does not take 3 arguments (character 1)"),
        ("concat()", "concat does not take 0 arguments (character 1)"),
        (
            "least(1,)",
            "expected a number, a 'text', event.…, a function, '-' or '(', found \")\" (character 9)",
        ),
        ("least(1 2)", "expected an operator, ',' or ')', found \"2\" (character 9)"),
    ] {
        let error = Expression::parse(text).expect_err(text);
        assert_eq!(error.to_string(), message, "{text}");
    }
}

#[test]
fn size_depth_and_work_are_bounded() {
    let error = |text: &str| Expression::parse(text).unwrap_err().to_string();
    let nested = |levels: usize| format!("{}1{}", "(".repeat(levels), ")".repeat(levels));
    assert_eq!(shown(&nested(EXPRESSION_DEPTH_MAX)), "1");
    let too_deep = format!("an expression nests at most 32 levels (character {})", 34);
    assert_eq!(error(&nested(EXPRESSION_DEPTH_MAX + 1)), too_deep);
    assert!(error(&"-".repeat(1_000)).starts_with("an expression nests"));
    assert!(error(&"round(".repeat(300)).starts_with("an expression nests"));

    let spaces = " ".repeat(EXPRESSION_CHARS_MAX - 1);
    assert_eq!(shown(&format!("{spaces}1")), "1");
    assert!(error(&format!("{spaces} 1")).starts_with("an expression has at most 2000 characters"));
    // Characters count, not bytes.
    let text = format!("'{}'", "é".repeat(EXPRESSION_CHARS_MAX - 2));
    assert_eq!(parse(&text).properties().count(), 0);

    assert_eq!(shown(&format!("1{}", "+1".repeat(127))), "128");
    assert!(error(&format!("1{}", "+1".repeat(128))).starts_with("an expression has at most 256"));
    let reads = |count: usize| vec!["event.properties.zero"; count].join("+");
    assert_eq!(shown(&reads(32)), "0");
    assert!(error(&reads(33)).starts_with("an expression reads properties in at most 32 places"));
}

#[test]
fn an_expression_names_the_properties_that_it_reads() {
    let expression = parse("round(event.properties.a.b * 2) + event.properties.c");
    assert_eq!(expression.properties().collect::<Vec<_>>(), ["a.b", "c"]);
}

#[test]
fn an_expression_prints_as_one_that_means_the_same() {
    for (text, printed) in [
        ("1 + 2 * 3", "1+2*3"),
        ("(1 + 2) * 3", "(1+2)*3"),
        ("1 - (2 - 3)", "1-(2-3)"),
        ("(1 - 2) - 3", "1-2-3"),
        ("2 * (3 / 4)", "2*(3/4)"),
        ("-(1 + 2)", "-(1+2)"),
        ("-(-1)", "--1"),
        ("(-1) * 2", "-1*2"),
        ("-(1 * 2)", "-(1*2)"),
        ("concat( 'it''s', event.code )", "concat('it''s',event.code)"),
        ("1.50", "1.5"),
    ] {
        assert_eq!(parse(text).to_string(), printed, "{text}");
    }
}

/// Texts of the grammar, nested up to a few levels.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0_u32..1_000).prop_map(|number| number.to_string()),
        "[0-9]{1,3}\\.[0-9]{1,3}".prop_filter("no leading zeros", |text| {
            !text.starts_with('0') || text.starts_with("0.")
        }),
        "'[a-z ]{0,4}'",
        Just("event.code".to_owned()),
        Just("event.timestamp".to_owned()),
        "event\\.properties\\.[a-z]{1,6}",
        Just("event.properties.usage.input".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (inner.clone(), "[-+*/]", inner.clone())
                .prop_map(|(a, sign, b)| format!("{a} {sign} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("-{a}")),
            (prop_oneof![Just("round"), Just("ceil"), Just("floor")], inner.clone())
                .prop_map(|(name, a)| format!("{name}({a}, 1)")),
            (
                prop_oneof![Just("concat"), Just("least"), Just("greatest")],
                prop::collection::vec(inner, 1..3)
            )
                .prop_map(|(name, all)| format!("{name}({})", all.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        if let Ok(expression) = Expression::parse(&text) {
            let _ = expression.evaluate(event());
        }
    }

    #[test]
    fn no_text_of_its_own_letters_panics(text in "[-+*/(),.'0-9 a-e]{0,30}") {
        if let Ok(expression) = Expression::parse(&text) {
            let _ = expression.evaluate(event());
        }
    }

    #[test]
    fn what_is_printed_parses_to_the_same(text in expressions()) {
        let expression = parse(&text);
        let printed = expression.to_string();
        prop_assert_eq!(&expression, &parse(&printed), "{}", printed);
        prop_assert_eq!(expression.evaluate(event()), parse(&printed).evaluate(event()));
    }

    #[test]
    fn whole_numbers_add_and_multiply_as_integers_do(
        a in 0_i64..1_000_000, b in 0_i64..1_000_000, c in 0_i64..1_000,
    ) {
        prop_assert_eq!(shown(&format!("{a} + {b} * {c} - {b}")), (a + b * c - b).to_string());
        prop_assert_eq!(shown(&format!("({a} - {b}) * {c}")), ((a - b) * c).to_string());
    }
}

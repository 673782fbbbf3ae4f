//! What an expression metric counts: a formula over one event, evaluated exactly.
//!
//! `+ - * /`, unary minus, parentheses, decimals, 'texts' ('' is a quote in one), `event.code`,
//! `event.timestamp` (Unix seconds), `event.properties.x`, `concat round ceil floor least greatest`.
//! Numbers are [`Quantity`]s at every step: 12 digits after the point, 38 in all. A product or
//! quotient with more digits after the point is rounded there, half away from zero.

mod arithmetic;
mod evaluate;
mod parse;

pub use evaluate::{EvaluationError, EventFields, ExpressionValue};
pub use parse::{ExpressionError, ExpressionFault};

use std::fmt::{self, Write};
use weir_money::Quantity;

/// Characters of an expression, at most.
pub const EXPRESSION_CHARS_MAX: usize = 2_000;
/// How deep parentheses, calls and minus signs may be nested.
pub const EXPRESSION_DEPTH_MAX: usize = 32;
/// Operands and operations of an expression: each is work for every event of its metric.
const STEPS_MAX: usize = 256;
/// Of them, how many may read a property: each reads the event's properties from their start.
const PROPERTIES_READ_MAX: usize = 32;

/// A parsed expression. It prints as a text that parses to the same expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// Operands before their operator, so that no depth of nesting needs a stack of calls.
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Number(Quantity),
    Text(String),
    Code,
    Timestamp,
    /// The path behind `event.properties.`.
    Property(String),
    Negate,
    Binary(Operator),
    Call {
        function: Function,
        arguments: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Operator {
    const fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Subtract => '-',
            Self::Multiply => '*',
            Self::Divide => '/',
        }
    }

    const fn binding(self) -> Binding {
        match self {
            Self::Add | Self::Subtract => Binding::Sum,
            Self::Multiply | Self::Divide => Binding::Product,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Concat,
    Round,
    Ceil,
    Floor,
    Least,
    Greatest,
}

impl Function {
    const ALL: [Self; 6] =
        [Self::Concat, Self::Round, Self::Ceil, Self::Floor, Self::Least, Self::Greatest];

    const fn name(self) -> &'static str {
        match self {
            Self::Concat => "concat",
            Self::Round => "round",
            Self::Ceil => "ceil",
            Self::Floor => "floor",
            Self::Least => "least",
            Self::Greatest => "greatest",
        }
    }

    /// Whether it can be called with this many arguments. Rounding takes a number of digits too.
    const fn takes(self, arguments: usize) -> bool {
        match self {
            Self::Round | Self::Ceil | Self::Floor => arguments == 1 || arguments == 2,
            Self::Concat | Self::Least | Self::Greatest => arguments >= 1,
        }
    }
}

impl Expression {
    /// Reads an expression. Errors: the first place that is wrong, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        parse::parse(text).map(|steps| Self { steps })
    }

    /// Its result for an event. Errors: a property that is missing or no number, a division by
    /// zero, a number with too many digits, a text that is too long.
    pub fn evaluate(&self, event: EventFields<'_>) -> Result<ExpressionValue, EvaluationError> {
        evaluate::value(&self.steps, event)
    }

    /// Its result for an event as the number that a metric sums up; a text that holds a number is
    /// one. Errors: those of `evaluate`; a text.
    pub fn number(&self, event: EventFields<'_>) -> Result<Quantity, EvaluationError> {
        evaluate::number(&self.steps, event)
    }

    /// Its result for an event as the text by which distinct values are told apart.
    /// Errors: those of `evaluate`.
    pub fn text(&self, event: EventFields<'_>) -> Result<String, EvaluationError> {
        Ok(match self.evaluate(event)? {
            ExpressionValue::Number(number) => number.to_string(),
            ExpressionValue::Text(text) => text,
        })
    }

    /// The paths of the properties it reads, as written behind `event.properties.`.
    pub fn properties(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Property(path) => Some(path.as_str()),
            _ => None,
        })
    }
}

/// How strongly the outermost sign of a printed part holds it together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Sum,
    Product,
    Sign,
    Whole,
}

struct Printed {
    text: String,
    binding: Binding,
}

impl Printed {
    fn whole(text: impl Into<String>) -> Self {
        Self { text: text.into(), binding: Binding::Whole }
    }

    fn at_least(self, binding: Binding) -> String {
        if self.binding >= binding { self.text } else { format!("({})", self.text) }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<Printed> = Vec::new();
        for step in &self.steps {
            let printed = match step {
                Step::Number(number) => Printed::whole(number.to_string()),
                Step::Text(text) => Printed::whole(format!("'{}'", text.replace('\'', "''"))),
                Step::Code => Printed::whole("event.code"),
                Step::Timestamp => Printed::whole("event.timestamp"),
                Step::Property(path) => Printed::whole(format!("event.properties.{path}")),
                Step::Negate => {
                    let operand = parts.pop().ok_or(fmt::Error)?.at_least(Binding::Sign);
                    Printed { text: format!("-{operand}"), binding: Binding::Sign }
                }
                Step::Binary(operator) => {
                    let binding = operator.binding();
                    // The left goes first: a right operand of the same binding keeps parentheses.
                    let tighter =
                        if binding == Binding::Sum { Binding::Product } else { Binding::Sign };
                    let right = parts.pop().ok_or(fmt::Error)?.at_least(tighter);
                    let left = parts.pop().ok_or(fmt::Error)?.at_least(binding);
                    Printed { text: format!("{left}{}{right}", operator.sign()), binding }
                }
                Step::Call { function, arguments } => {
                    let from = parts.len().checked_sub(*arguments).ok_or(fmt::Error)?;
                    let mut text = format!("{}(", function.name());
                    for (place, argument) in parts.drain(from..).enumerate() {
                        let comma = if place == 0 { "" } else { "," };
                        write!(text, "{comma}{}", argument.text)?;
                    }
                    Printed::whole(text + ")")
                }
            };
            parts.push(printed);
        }
        f.write_str(&parts.pop().ok_or(fmt::Error)?.text)
    }
}

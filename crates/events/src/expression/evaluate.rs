//! The value of an expression for one event.

use super::arithmetic::{Direction, divide, multiply, round};
use super::{Function, Operator, Step};
use crate::json::{Cursor, Kind};
use crate::{Properties, Reason, distinct_of, property, value_of};
use std::borrow::Cow;
use weir_money::{Quantity, QuantityError};

/// What an expression can see of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFields<'a> {
    pub code: &'a str,
    /// Microseconds since 1970: the event's own, or else the time of receipt.
    pub timestamp_us: i64,
    pub properties: Properties<'a>,
}

/// The result of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpressionValue {
    /// At most 16 digits before the point and 12 after it, like every value of an event.
    Number(Quantity),
    /// At most 64 KiB.
    Text(String),
}

/// Why an expression has no value for an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// The property, named by its path, is absent or null.
    #[error("must be given: the metric's expression reads it")]
    Missing { property: String },
    /// The property, named by its path, holds neither a number nor a string with one.
    #[error("must be a number, or a string with one: the metric's expression counts with it")]
    NotANumber { property: String },
    /// The property, named by its path, has more than 16 digits before or 12 after the point.
    #[error("must have at most 16 digits before the point and 12 after it")]
    TooManyDigits { property: String },
    /// The event's code stands where a number must.
    #[error("must be a number: the metric's expression counts with it")]
    CodeNotANumber,
    /// A text that the expression makes itself stands where a number must.
    #[error("the metric's expression gives a text where it needs a number")]
    TextNotANumber,
    #[error("the metric's expression divides by zero")]
    DivisionByZero,
    /// A step beyond 26 digits before the point, or a result beyond 16.
    #[error("the metric's expression gives a number with too many digits before the point")]
    Overflow,
    /// The second argument of `round`, `ceil` or `floor`.
    #[error("the metric's expression rounds at no whole number of digits from -12 to 12")]
    BadDigits,
    #[error("the metric's expression gives a text of more than {TEXT_BYTES_MAX} bytes")]
    TextTooLong,
}

impl EvaluationError {
    /// The field of the event that is at fault, `properties` where it is not a single one.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::Missing { property }
            | Self::NotANumber { property }
            | Self::TooManyDigits { property } => format!("properties.{property}"),
            Self::CodeNotANumber => "code".to_owned(),
            Self::TextNotANumber
            | Self::DivisionByZero
            | Self::Overflow
            | Self::BadDigits
            | Self::TextTooLong => "properties".to_owned(),
        }
    }

    /// The reason that a verdict gives.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Missing { .. } => Reason::Required,
            Self::NotANumber { .. }
            | Self::CodeNotANumber
            | Self::TextNotANumber
            | Self::BadDigits => Reason::NotANumber,
            Self::TooManyDigits { .. } | Self::Overflow => Reason::TooManyDigits,
            Self::DivisionByZero => Reason::DivisionByZero,
            Self::TextTooLong => Reason::TooLong,
        }
    }
}

/// Bytes of a text that an expression makes: as many as an event has.
const TEXT_BYTES_MAX: usize = crate::EVENT_BYTES_MAX;
/// The least number with 17 digits before the point.
const RESULT_END: i128 = 10_i128.pow(16 + Quantity::SCALE);

/// The value of the last step.
pub fn value(steps: &[Step], event: EventFields<'_>) -> Result<ExpressionValue, EvaluationError> {
    match run(steps, event)? {
        Value::Number(number) => checked(number).map(ExpressionValue::Number),
        Value::Text { text, .. } => Ok(ExpressionValue::Text(text.into_owned())),
    }
}

/// The value of the last step as a number.
pub fn number(steps: &[Step], event: EventFields<'_>) -> Result<Quantity, EvaluationError> {
    run(steps, event)?.number().and_then(checked)
}

fn checked(number: Quantity) -> Result<Quantity, EvaluationError> {
    let fits = -RESULT_END < number.scaled() && number.scaled() < RESULT_END;
    if fits { Ok(number) } else { Err(EvaluationError::Overflow) }
}

enum Value<'v> {
    Number(Quantity),
    Text { text: Cow<'v, str>, source: Source<'v> },
}

/// Where a text came from, to name it where a number is needed.
#[derive(Clone, Copy)]
enum Source<'v> {
    Property(&'v str),
    Code,
    Made,
}

impl Value<'_> {
    fn number(&self) -> Result<Quantity, EvaluationError> {
        let (text, source) = match self {
            Self::Number(number) => return Ok(*number),
            Self::Text { text, source } => (text, source),
        };
        Quantity::parse_value(text).map_err(|error| match (source, error) {
            (Source::Property(path), QuantityError::NotANumber) => {
                EvaluationError::NotANumber { property: (*path).to_owned() }
            }
            (Source::Property(path), QuantityError::TooManyDigits) => {
                EvaluationError::TooManyDigits { property: (*path).to_owned() }
            }
            (Source::Code, _) => EvaluationError::CodeNotANumber,
            (Source::Made, _) => EvaluationError::TextNotANumber,
        })
    }
}

fn run<'v>(steps: &'v [Step], event: EventFields<'v>) -> Result<Value<'v>, EvaluationError> {
    let mut stack = Stack(Vec::with_capacity(8));
    for step in steps {
        let value = match step {
            Step::Number(number) => Value::Number(*number),
            Step::Text(text) => Value::Text { text: text.into(), source: Source::Made },
            Step::Code => Value::Text { text: event.code.into(), source: Source::Code },
            // Microseconds have six digits of the twelve.
            Step::Timestamp => {
                let scaled = i128::from(event.timestamp_us) * 1_000_000;
                Value::Number(Quantity::from_scaled(scaled))
            }
            Step::Property(path) => read(event.properties, path)?,
            Step::Negate => {
                let number = stack.pop().number()?;
                Value::Number(Quantity::from_scaled(-number.scaled()))
            }
            Step::Binary(operator) => {
                let (right, left) = (stack.pop(), stack.pop());
                Value::Number(binary(*operator, left.number()?, right.number()?)?)
            }
            Step::Call { function, arguments } => call(*function, &stack.split(*arguments))?,
        };
        stack.0.push(value);
    }
    Ok(stack.pop())
}

/// Values that wait for their operator.
struct Stack<'v>(Vec<Value<'v>>);

impl<'v> Stack<'v> {
    #[expect(clippy::expect_used, reason = "the parser puts operands before their operator")]
    fn pop(&mut self) -> Value<'v> {
        self.0.pop().expect("an operand")
    }

    fn split(&mut self, arguments: usize) -> Vec<Value<'v>> {
        self.0.split_off(self.0.len().saturating_sub(arguments))
    }
}

fn binary(
    operator: Operator,
    left: Quantity,
    right: Quantity,
) -> Result<Quantity, EvaluationError> {
    let result = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => multiply(left, right),
        Operator::Divide if right == Quantity::ZERO => return Err(EvaluationError::DivisionByZero),
        Operator::Divide => divide(left, right),
    };
    result.ok_or(EvaluationError::Overflow)
}

fn call<'v>(function: Function, arguments: &[Value<'v>]) -> Result<Value<'v>, EvaluationError> {
    let direction = match function {
        Function::Concat => return concat(arguments),
        Function::Least => return extreme(arguments, Quantity::min),
        Function::Greatest => return extreme(arguments, Quantity::max),
        Function::Round => Direction::Nearest,
        Function::Ceil => Direction::Up,
        Function::Floor => Direction::Down,
    };
    let mut numbers = arguments.iter().map(Value::number);
    let number = numbers.next().unwrap_or(Err(EvaluationError::TextNotANumber))?;
    let digits = numbers.next().transpose()?.map_or(Ok(0), whole_digits)?;
    round(number, direction, digits).map(Value::Number).ok_or(EvaluationError::Overflow)
}

/// The number of digits that a quantity means, from -12 to 12.
fn whole_digits(quantity: Quantity) -> Result<i32, EvaluationError> {
    let one = 10_i128.pow(Quantity::SCALE);
    let (whole, part) = (quantity.scaled() / one, quantity.scaled() % one);
    match i32::try_from(whole) {
        Ok(digits @ -12..=12) if part == 0 => Ok(digits),
        _ => Err(EvaluationError::BadDigits),
    }
}

fn concat<'v>(arguments: &[Value<'v>]) -> Result<Value<'v>, EvaluationError> {
    let mut joined = String::new();
    for argument in arguments {
        match argument {
            Value::Number(number) => joined.push_str(&number.to_string()),
            Value::Text { text, .. } => joined.push_str(text),
        }
        if joined.len() > TEXT_BYTES_MAX {
            return Err(EvaluationError::TextTooLong);
        }
    }
    Ok(Value::Text { text: joined.into(), source: Source::Made })
}

fn extreme<'v>(
    arguments: &[Value<'v>],
    choose: fn(Quantity, Quantity) -> Quantity,
) -> Result<Value<'v>, EvaluationError> {
    let mut chosen: Option<Quantity> = None;
    for argument in arguments {
        let number = argument.number()?;
        chosen = Some(chosen.map_or(number, |other| choose(other, number)));
    }
    chosen.map(Value::Number).ok_or(EvaluationError::TextNotANumber)
}

fn read<'v>(properties: Properties<'v>, path: &'v str) -> Result<Value<'v>, EvaluationError> {
    let named = || path.to_owned();
    let raw = at_path(properties, path).filter(|raw| *raw != "null");
    let raw = raw.ok_or_else(|| EvaluationError::Missing { property: named() })?;
    let mut cursor = Cursor::new(raw);
    let text = match cursor.kind() {
        Ok(Kind::Number) => {
            let number = value_of(raw);
            return number
                .map(Value::Number)
                .map_err(|_| EvaluationError::TooManyDigits { property: named() });
        }
        Ok(Kind::String) => match cursor.string() {
            Ok(text) => text.value(),
            Err(_) => raw.into(),
        },
        _ => distinct_of(raw).into(),
    };
    Ok(Value::Text { text, source: Source::Property(path) })
}

/// The value at a path: the key that is the whole path, or else the rest of the path within the
/// object at its first part.
fn at_path<'v>(properties: Properties<'v>, path: &str) -> Option<&'v str> {
    if let Some(found) = properties.get(path) {
        return Some(found);
    }
    let (first, mut path) = path.split_once('.')?;
    let mut object = properties.get(first)?;
    loop {
        if let Some(found) = property(object, path) {
            return Some(found);
        }
        let (first, rest) = path.split_once('.')?;
        object = property(object, first)?;
        path = rest;
    }
}

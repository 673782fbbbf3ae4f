//! From a text to the steps of an expression, operands first.

use super::{
    EXPRESSION_CHARS_MAX, EXPRESSION_DEPTH_MAX, Function, Operator, PROPERTIES_READ_MAX, STEPS_MAX,
    Step,
};
use weir_money::{Quantity, QuantityError};

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} (character {at})")]
pub struct ExpressionError {
    /// The place, in characters counted from 1.
    pub at: usize,
    /// What is wrong there.
    pub fault: ExpressionFault,
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionFault {
    #[error("an expression has at most {EXPRESSION_CHARS_MAX} characters")]
    TooLong,
    #[error("an expression nests at most {EXPRESSION_DEPTH_MAX} levels")]
    TooDeep,
    #[error("an expression has at most {STEPS_MAX} operands and operations")]
    TooManySteps,
    #[error("an expression reads properties in at most {PROPERTIES_READ_MAX} places")]
    TooManyProperties,
    #[error("expected {expected}, the expression ends")]
    End { expected: &'static str },
    #[error("expected {expected}, found {found:?}")]
    Unexpected { expected: &'static str, found: String },
    #[error("the text has no closing quote")]
    OpenText,
    #[error("{text} is no decimal number")]
    NotANumber { text: String },
    #[error("{text} has more than 16 digits before or 12 after the point")]
    TooManyDigits { text: String },
    #[error("{name:?} is not known: event.code, event.timestamp and event.properties.<name> are")]
    UnknownName { name: String },
    #[error("there is no function {name:?}: concat, round, ceil, floor, least and greatest are")]
    UnknownFunction { name: String },
    #[error("{function} does not take {given} arguments")]
    Arguments { function: &'static str, given: usize },
}

const OPERAND: &str = "a number, a 'text', event.…, a function, '-' or '('";

/// The steps of a text. Errors: the first place that is wrong.
pub fn parse(text: &str) -> Result<Vec<Step>, ExpressionError> {
    if text.chars().nth(EXPRESSION_CHARS_MAX).is_some() {
        let fault = ExpressionFault::TooLong;
        return Err(ExpressionError { at: EXPRESSION_CHARS_MAX + 1, fault });
    }
    let mut parser = Parser { text, at: 0, depth: 0, properties: 0, steps: Vec::new() };
    parser.sum()?;
    match parser.peek() {
        None => Ok(parser.steps),
        Some(_) => Err(parser.unexpected("an operator or the end")),
    }
}

/// Reads by descent: it goes one level of calls deeper only where `deeper` counts it.
struct Parser<'t> {
    text: &'t str,
    /// Bytes from the start.
    at: usize,
    depth: usize,
    properties: usize,
    steps: Vec<Step>,
}

impl<'t> Parser<'t> {
    fn sum(&mut self) -> Result<(), ExpressionError> {
        self.product()?;
        loop {
            let operator = match self.peek() {
                Some('+') => Operator::Add,
                Some('-') => Operator::Subtract,
                _ => return Ok(()),
            };
            self.pass();
            self.product()?;
            self.push(Step::Binary(operator))?;
        }
    }

    fn product(&mut self) -> Result<(), ExpressionError> {
        self.signed()?;
        loop {
            let operator = match self.peek() {
                Some('*') => Operator::Multiply,
                Some('/') => Operator::Divide,
                _ => return Ok(()),
            };
            self.pass();
            self.signed()?;
            self.push(Step::Binary(operator))?;
        }
    }

    fn signed(&mut self) -> Result<(), ExpressionError> {
        if self.peek() != Some('-') {
            return self.operand();
        }
        self.pass();
        self.deeper(Self::signed)?;
        self.push(Step::Negate)
    }

    fn operand(&mut self) -> Result<(), ExpressionError> {
        match self.peek() {
            Some('(') => {
                self.pass();
                self.deeper(Self::sum)?;
                self.expect(')', "an operator or ')'")
            }
            Some('\'') => self.quoted(),
            Some('0'..='9') => self.number(),
            Some(letter) if is_name(letter) => self.name(),
            _ => Err(self.unexpected(OPERAND)),
        }
    }

    fn quoted(&mut self) -> Result<(), ExpressionError> {
        let start = self.at;
        self.pass();
        let mut value = String::new();
        loop {
            let rest = self.rest();
            let Some((plain, _)) = rest.split_once('\'') else {
                return Err(self.fault_at(start, ExpressionFault::OpenText));
            };
            value.push_str(plain);
            self.at += plain.len() + 1;
            if !self.rest().starts_with('\'') {
                return self.push_at(start, Step::Text(value));
            }
            value.push('\'');
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<(), ExpressionError> {
        let start = self.at;
        // Letters are taken along, so that `1e3` and `0x10` are named as what they are.
        let text = self.word(|letter| is_name(letter) || letter == '.');
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let read = if plain { Quantity::parse_value(text) } else { Err(QuantityError::NotANumber) };
        match read {
            Ok(number) => self.push_at(start, Step::Number(number)),
            Err(error) => {
                let text = text.to_owned();
                let fault = match error {
                    QuantityError::NotANumber => ExpressionFault::NotANumber { text },
                    QuantityError::TooManyDigits => ExpressionFault::TooManyDigits { text },
                };
                Err(self.fault_at(start, fault))
            }
        }
    }

    /// `event.…`, or a function with its arguments.
    fn name(&mut self) -> Result<(), ExpressionError> {
        let start = self.at;
        let name = self.word(|letter| is_name(letter) || letter == '.');
        if self.peek() == Some('(') {
            return self.call(start, name);
        }
        let step = match name {
            "event.code" => Step::Code,
            "event.timestamp" => Step::Timestamp,
            _ => match name.strip_prefix("event.properties.") {
                Some(path) if path.split('.').all(|part| !part.is_empty()) => {
                    self.properties += 1;
                    if self.properties > PROPERTIES_READ_MAX {
                        return Err(self.fault_at(start, ExpressionFault::TooManyProperties));
                    }
                    Step::Property(path.to_owned())
                }
                _ => {
                    let fault = ExpressionFault::UnknownName { name: name.to_owned() };
                    return Err(self.fault_at(start, fault));
                }
            },
        };
        self.push_at(start, step)
    }

    fn call(&mut self, start: usize, name: &str) -> Result<(), ExpressionError> {
        let Some(function) = Function::ALL.into_iter().find(|known| known.name() == name) else {
            let fault = ExpressionFault::UnknownFunction { name: name.to_owned() };
            return Err(self.fault_at(start, fault));
        };
        self.pass();
        let mut arguments = 0;
        if self.peek() != Some(')') {
            loop {
                self.deeper(Self::sum)?;
                arguments += 1;
                if self.peek() != Some(',') {
                    break;
                }
                self.pass();
            }
        }
        self.expect(')', "an operator, ',' or ')'")?;
        if !function.takes(arguments) {
            let fault = ExpressionFault::Arguments { function: function.name(), given: arguments };
            return Err(self.fault_at(start, fault));
        }
        self.push_at(start, Step::Call { function, arguments })
    }

    fn deeper(
        &mut self,
        read: fn(&mut Self) -> Result<(), ExpressionError>,
    ) -> Result<(), ExpressionError> {
        self.depth += 1;
        if self.depth > EXPRESSION_DEPTH_MAX {
            return Err(self.fault_at(self.at, ExpressionFault::TooDeep));
        }
        read(self)?;
        self.depth -= 1;
        Ok(())
    }

    fn push(&mut self, step: Step) -> Result<(), ExpressionError> {
        self.push_at(self.at, step)
    }

    fn push_at(&mut self, at: usize, step: Step) -> Result<(), ExpressionError> {
        if self.steps.len() == STEPS_MAX {
            return Err(self.fault_at(at, ExpressionFault::TooManySteps));
        }
        self.steps.push(step);
        Ok(())
    }

    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next character that is no white space, which is not passed.
    fn peek(&mut self) -> Option<char> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next()
    }

    /// Passes the character that was peeked at.
    fn pass(&mut self) {
        self.at += self.rest().chars().next().map_or(0, char::len_utf8);
    }

    fn word(&mut self, belongs: fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let word = rest.split_once(|letter| !belongs(letter)).map_or(rest, |(word, _)| word);
        self.at += word.len();
        word
    }

    fn expect(&mut self, wanted: char, expected: &'static str) -> Result<(), ExpressionError> {
        if self.peek() != Some(wanted) {
            return Err(self.unexpected(expected));
        }
        self.pass();
        Ok(())
    }

    fn unexpected(&mut self, expected: &'static str) -> ExpressionError {
        let fault = match self.peek() {
            None => ExpressionFault::End { expected },
            Some(found) => ExpressionFault::Unexpected { expected, found: found.to_string() },
        };
        self.fault_at(self.at, fault)
    }

    fn fault_at(&self, byte: usize, fault: ExpressionFault) -> ExpressionError {
        let before = self.text.get(..byte).unwrap_or(self.text);
        ExpressionError { at: before.chars().count() + 1, fault }
    }
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

//! What is refused when a plan is written.

use crate::charge::{Charge, ChargeModel, Tier};
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use rust_decimal::Decimal;

/// A field that cannot be taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Where it is in the request: `charges[1].properties.graduatedRanges[0].toValue`.
    pub field: String,
    /// What is wrong, in lower case, and what would be right.
    pub message: String,
}

/// Everything that is wrong with the charges of a plan; empty when they can be written.
#[must_use]
pub fn check_charges(charges: &[Charge]) -> Vec<FieldError> {
    let mut codes = BTreeSet::new();
    let mut errors = Vec::new();
    for (at, charge) in charges.iter().enumerate() {
        let path = format!("charges[{at}]");
        if !codes.insert(charge.code.as_str()) {
            let message = format!("another charge of the plan has the code {:?}", charge.code);
            errors.push(FieldError { field: format!("{path}.code"), message });
        }
        errors.extend(check_model(&charge.model, &path));
    }
    errors
}

/// Everything that is wrong with a charge model; `path` is where the charge is in the request.
/// Tiers start at 0, join without gap or overlap (0–10, 10–20 or 0–10, 11–20), the last is open.
#[must_use]
pub fn check_model(model: &ChargeModel, path: &str) -> Vec<FieldError> {
    match model {
        ChargeModel::Standard { .. } => Vec::new(),
        ChargeModel::Package { size: 0, .. } => Vec::from([FieldError {
            field: format!("{path}.properties.packageSize"),
            message: "must be at least 1".to_string(),
        }]),
        ChargeModel::Package { .. } => Vec::new(),
        ChargeModel::Graduated { tiers } => {
            check_tiers(tiers, &format!("{path}.properties.graduatedRanges"))
        }
        ChargeModel::Volume { tiers } => {
            check_tiers(tiers, &format!("{path}.properties.volumeRanges"))
        }
    }
}

fn check_tiers(tiers: &[Tier], path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut refuse = |at: Option<usize>, part: &str, message: String| {
        let field = at.map_or_else(|| path.to_string(), |at| format!("{path}[{at}].{part}"));
        errors.push(FieldError { field, message });
    };
    if tiers.is_empty() {
        refuse(None, "", "at least one range is needed".to_string());
    }
    let mut before: Option<Decimal> = None;
    for (at, tier) in tiers.iter().enumerate() {
        let starts = match before {
            None if at == 0 => tier.from.is_zero(),
            None => true, // the range before is open, which is refused there
            Some(before) => {
                tier.from == before || (before.is_integer() && tier.from - Decimal::ONE == before)
            }
        };
        if !starts {
            refuse(Some(at), "fromValue", start_message(before));
        }
        match tier.to {
            None if at + 1 < tiers.len() => {
                refuse(Some(at), "toValue", "only the last range may be open".to_string());
            }
            Some(_) if at + 1 == tiers.len() => {
                refuse(
                    Some(at),
                    "toValue",
                    "the last range must be open: leave it out".to_string(),
                );
            }
            Some(to) if to < tier.from || to <= before.unwrap_or(Decimal::ZERO) => {
                refuse(Some(at), "toValue", "must be above the range's start".to_string());
            }
            Some(_) | None => {}
        }
        before = tier.to;
    }
    errors
}

fn start_message(before: Option<Decimal>) -> String {
    match before {
        None => "the first range must start at 0".to_string(),
        Some(end) if end.is_integer() => {
            format!("must be {end} or {}: ranges join without gap or overlap", end + Decimal::ONE)
        }
        Some(end) => format!("must be {end}: ranges join without gap or overlap"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_ids::{BillableMetricId, ChargeId};
    use weir_money::Rate;

    fn tiers(rows: &[(&str, Option<&str>)]) -> Vec<Tier> {
        let decimal = |text: &str| Decimal::from_str_exact(text).unwrap();
        rows.iter()
            .map(|(from, to)| Tier {
                from: decimal(from),
                to: to.map(decimal),
                per_unit: Rate::ZERO,
                flat: Rate::ZERO,
            })
            .collect()
    }

    fn fields(rows: &[(&str, Option<&str>)]) -> Vec<String> {
        let model = ChargeModel::Graduated { tiers: tiers(rows) };
        check_model(&model, "charges[1]").into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn joined_tiers_are_taken() {
        for rows in [
            &[("0", None)][..],
            &[("0", Some("10")), ("10", None)],
            &[("0", Some("10")), ("11", Some("11")), ("12", None)],
            &[("0", Some("0.5")), ("0.5", Some("1")), ("2", None)],
        ] {
            assert_eq!(fields(rows), Vec::<String>::new(), "{rows:?}");
        }
    }

    #[test]
    fn gaps_overlaps_and_ends_are_refused_by_name() {
        for (rows, field) in [
            (&[("1", None)][..], "[0].fromValue"),
            (&[("0", Some("10"))], "[0].toValue"),
            (&[("0", None), ("11", None)], "[0].toValue"),
            (&[("0", Some("10")), ("12", None)], "[1].fromValue"),
            (&[("0", Some("10")), ("9", None)], "[1].fromValue"),
            (&[("0", Some("10.5")), ("11.5", None)], "[1].fromValue"),
            (&[("0", Some("0")), ("1", None)], "[0].toValue"),
            (&[("0", Some("10")), ("11", Some("10.5")), ("10.5", None)], "[1].toValue"),
            (&[("0", Some("10")), ("10", Some("10")), ("11", None)], "[1].toValue"),
            (&[("-1", None)], "[0].fromValue"),
            (&[], ""),
        ] {
            let path = "charges[1].properties.graduatedRanges";
            assert_eq!(fields(rows), [format!("{path}{field}")], "{rows:?}");
        }
    }

    #[test]
    fn each_model_names_its_own_fields() {
        let volume = ChargeModel::Volume { tiers: tiers(&[("0", Some("1"))]) };
        let package = ChargeModel::Package { amount: Rate::ZERO, size: 0, free_units: 0 };
        let field = |model| check_model(model, "charges[0]").remove(0).field;
        assert_eq!(field(&volume), "charges[0].properties.volumeRanges[0].toValue");
        assert_eq!(field(&package), "charges[0].properties.packageSize");
    }

    #[test]
    fn two_charges_of_one_code_are_refused() {
        let charge = Charge {
            id: ChargeId::from_u128(1),
            code: "tokens".to_string(),
            metric: BillableMetricId::from_u128(1),
            invoice_display_name: None,
            model: ChargeModel::Standard { amount: Rate::ZERO },
            filters: Vec::new(),
            pricing_group_keys: Vec::new(),
        };
        let errors = check_charges(&[charge.clone(), charge]);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors.first().unwrap().field, "charges[1].code");
    }
}

//! Charge models: what units cost.

use alloc::{collections::BTreeMap, string::String, vec::Vec};
use rust_decimal::Decimal;
use weir_ids::{BillableMetricId, ChargeFilterId, ChargeId};
use weir_money::Rate;

/// A usage charge of a plan version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    pub id: ChargeId,
    /// Unique in the plan.
    pub code: String,
    pub metric: BillableMetricId,
    pub invoice_display_name: Option<String>,
    /// The default price: of the events that no filter takes.
    pub model: ChargeModel,
    /// Prices of their own for some of the events. Their ids say which is older.
    pub filters: Vec<ChargeFilter>,
    /// One line for each distinct combination of these properties' values.
    pub pricing_group_keys: Vec<String>,
}

/// A price of its own for the events that have one of the values for each of the keys.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChargeFilter {
    pub id: ChargeFilterId,
    /// By key of the metric's filters, some of the values allowed there. At least one key, each with
    /// at least one value.
    pub values: BTreeMap<String, Vec<String>>,
    pub invoice_display_name: Option<String>,
    pub model: ChargeModel,
    /// In the place of the charge's own; empty: the charge's own.
    #[serde(default)]
    pub pricing_group_keys: Vec<String>,
}

/// How units become an amount. Amounts are in major units of the plan's currency.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "model", rename_all = "snake_case")]
pub enum ChargeModel {
    /// units × amount
    Standard { amount: Rate },
    /// Each tier reached: its units × per_unit + flat.
    Graduated { tiers: Vec<Tier> },
    /// ceil((units − free_units) / size) × amount, not below 0.
    Package { amount: Rate, size: u64, free_units: u64 },
    /// The one tier that holds the whole quantity: units × per_unit + flat.
    Volume { tiers: Vec<Tier> },
}

/// A range of units with its prices. The last tier has no `to`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tier {
    pub from: Decimal,
    pub to: Option<Decimal>,
    pub per_unit: Rate,
    pub flat: Rate,
}

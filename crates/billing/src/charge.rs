//! Charge models: what units cost.

use alloc::{string::String, vec::Vec};
use rust_decimal::Decimal;
use weir_ids::{BillableMetricId, ChargeId};
use weir_money::Rate;

/// A usage charge of a plan version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    pub id: ChargeId,
    /// Unique in the plan.
    pub code: String,
    pub metric: BillableMetricId,
    pub invoice_display_name: Option<String>,
    pub model: ChargeModel,
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

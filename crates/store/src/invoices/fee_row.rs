//! A line of an invoice as its table holds it.

use crate::columns::{from_json, id, money, parsed, unsigned};
use crate::{StoreError, Timestamp};
use sqlx::types::Uuid;
use weir_billing::invoice::{Fee, FeeKind, Period, UsageSlot};

pub(super) struct FeeRow {
    pub id: Uuid,
    pub invoice_id: Uuid,
    pub subscription_id: Uuid,
    pub kind: String,
    pub charge_id: Option<Uuid>,
    pub metric_id: Option<Uuid>,
    pub filter_id: Option<Uuid>,
    pub group_values: Option<serde_json::Value>,
    pub events: Option<i64>,
    pub corrects_fee_id: Option<Uuid>,
    pub name: String,
    pub code: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub units: String,
    pub precise_amount: String,
    pub amount_minor: i64,
    pub currency: String,
}

impl FeeRow {
    pub(super) fn read(self) -> Result<Fee, StoreError> {
        let group = self.group_values.map(|value| from_json("fees.group_values", value));
        let group = group.transpose()?.unwrap_or_default();
        // The table's constraint: lines of usage have all three, the base fee none.
        let kind = match (self.kind.as_str(), self.charge_id, self.metric_id, self.events) {
            ("subscription", None, None, None) => FeeKind::Subscription,
            (kind @ ("charge" | "true_up"), Some(charge), Some(metric), Some(events)) => {
                let slot = UsageSlot {
                    charge: id(charge),
                    metric: id(metric),
                    filter: self.filter_id.map(id),
                    group,
                };
                if kind == "charge" {
                    FeeKind::Charge { slot, events: unsigned("fees.events", events)? }
                } else {
                    FeeKind::TrueUp { slot, events, corrects: self.corrects_fee_id.map(id) }
                }
            }
            _ => return Err(StoreError::Corrupt { column: "fees.kind", value: self.kind }),
        };
        Ok(Fee {
            id: id(self.id),
            subscription: id(self.subscription_id),
            kind,
            name: self.name,
            code: self.code,
            period: Period { start: self.period_start, end: self.period_end },
            units: parsed("fees.units", &self.units)?,
            precise: parsed("fees.precise_amount", &self.precise_amount)?,
            amount: money("fees.amount_minor", self.amount_minor, &self.currency)?,
        })
    }
}

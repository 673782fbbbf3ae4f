//! The organization between proto and domain.

use super::ops::Account;
use crate::{
    error::OpError,
    fields::{Faults, timestamp_out},
    mask::Mask,
};
use weir_proto::v2;
use weir_store::organizations::LateEvents;

/// Above any edge: a number that is meant as no limit is better said by none.
const EVENTS_PER_SECOND_MAX: u32 = 10_000_000;

/// The account with what the update names. Errors: `Invalid`, naming each field.
pub fn changed(
    request: &v2::UpdateOrganizationRequest,
    mask: &Mask,
    account: &Account,
) -> Result<Account, OpError> {
    let mut faults = Faults::default();
    let mut changed = account.clone();
    if mask.names("name") {
        changed.organization.name = faults.text("name", &request.name);
    }
    mask.set("lenient", &mut changed.settings.lenient, request.lenient);
    if mask.names("late_events") {
        changed.settings.late_events = match request.late_events() {
            v2::LateEvents::Ignore => LateEvents::Ignore,
            v2::LateEvents::TrueUp | v2::LateEvents::Unspecified => LateEvents::TrueUp,
        };
    }
    if mask.names("events_per_second_max") {
        let most = request.events_per_second_max;
        if most.is_some_and(|most| !(1..=EVENTS_PER_SECOND_MAX).contains(&most)) {
            let message = format!("must be 1 to {EVENTS_PER_SECOND_MAX}, or null for no limit");
            faults.push("eventsPerSecondMax", message);
        }
        changed.settings.events_per_second_max = most;
    }
    faults.finish(Some(changed))
}

pub fn organization_out(account: Account) -> v2::Organization {
    let Account { organization, settings } = account;
    let late_events = match settings.late_events {
        LateEvents::TrueUp => v2::LateEvents::TrueUp,
        LateEvents::Ignore => v2::LateEvents::Ignore,
    };
    v2::Organization {
        id: organization.id.to_string(),
        name: organization.name,
        document_number_prefix: organization.document_number_prefix,
        lenient: settings.lenient,
        late_events: late_events.into(),
        events_per_second_max: settings.events_per_second_max,
        created_at: Some(timestamp_out(organization.created_at)),
    }
}

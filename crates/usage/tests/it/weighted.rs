//! Σ value × seconds to the window's end, exact to the microsecond.

use crate::support::*;
use weir_usage::{Chunk, Generations, UsageRow};

#[tokio::test]
async fn weighted_sums_are_those_worked_out_by_hand() {
    let database = database().await;
    let subscriptions = (0xB100..).map(weir_ids::SubscriptionId::from_u128);
    for (subscription, (events, end, expected)) in subscriptions.zip([
        // 2500 held for the 27 days from 5 March: ÷ 31 days it is 2177.419354….
        (vec![("2026-03-05T00:00:00Z", "2500")], MARCH.1, (2500_u64 * 27 * 86_400).to_string()),
        // Up at 10:07:30, down again 30 s later: 100 × 30.
        (
            vec![("2026-03-05T10:07:30Z", "100"), ("2026-03-05T10:08:00Z", "-100")],
            MARCH.1,
            "3000".to_owned(),
        ),
        // Down over a bound of buckets: 7 × 0.000002 s.
        (
            vec![("2026-03-05T10:14:59.999999Z", "7"), ("2026-03-05T10:15:00.000001Z", "-7")],
            MARCH.1,
            "0.000014".to_owned(),
        ),
        // A value's last digit for a microsecond: the eighteenth digit.
        (
            vec![("2026-03-31T23:59:59.999999Z", "0.000000000001")],
            MARCH.1,
            "0.000000000000000001".to_owned(),
        ),
        // Greatest values, whole month, twice: 2 × 9999999999999999.999999999999 × 2678400.
        (
            vec![
                ("2026-03-01T00:00:00Z", "9999999999999999.999999999999"),
                ("2026-03-01T00:00:00Z", "9999999999999999.999999999999"),
            ],
            MARCH.1,
            "53567999999999999999999.9999946432".to_owned(),
        ),
        // An end within a bucket: 4 × (450.5 − 30) s.
        (vec![("2026-03-05T10:00:30Z", "4")], "2026-03-05T10:07:30.500000Z", "1682".to_owned()),
        (vec![("2026-03-05T10:00:30Z", "-0.5")], "2026-03-05T10:15:00Z", "-435".to_owned()),
    ]) {
        let rows = events.iter().map(|(time, amount)| usage(time, amount));
        insert_usage(&database, rows.map(|row| UsageRow { subscription, ..row })).await;
        let windows = [(subscription, at(MARCH.0), at(end))];
        let all = database
            .usage(ORGANIZATION, &windows, &everything(), &Generations::default())
            .await
            .unwrap();
        let found = all[0].as_ref().unwrap();
        assert_eq!(found.value_seconds, expected, "{events:?}");
    }
}

#[tokio::test]
async fn a_window_s_weight_does_not_depend_on_how_rows_were_cut_into_chunks() {
    let database = database().await;
    let rows: Vec<_> = (0..60)
        .map(|n| usage(&format!("2026-03-05T10:{n:02}:07.654321Z"), &format!("{n}.25")))
        .collect();
    let apart = weir_ids::SubscriptionId::from_u128(0xB2);
    let others = rows.iter().map(|row| UsageRow { subscription: apart, ..row.clone() });
    insert_usage(&database, others).await;
    insert_some(&database, Chunk { usage: rows, ..Chunk::default() }).await;
    let windows = [SUBSCRIPTION, apart].map(|one| (one, at(MARCH.0), at(MARCH.1)));
    let all = database
        .usage(ORGANIZATION, &windows, &everything(), &Generations::default())
        .await
        .unwrap();
    let weights: Vec<_> = all.into_iter().map(|one| one.unwrap().value_seconds).collect();
    // Σ (n + 0.25) × (26 days 13:59:52.345679 − 60 n) over n of 0 to 59; the sum of n is 1770, of
    // n² 70210, and 26 days 13:59:52.345679 are 2296792.345679 s:
    // 1785 × 2296792.345679 − 60 × (70210 + 0.25 × 1770) = 4099774337.037015 − 4239150.
    assert_eq!(weights, ["4095535187.037015", "4095535187.037015"]);
}

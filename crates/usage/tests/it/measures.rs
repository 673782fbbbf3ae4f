//! A read is of what its metrics need, and of nothing else; what it gives is the same.

use crate::support::*;
use weir_ids::{BillableMetricId, SubscriptionId};
use weir_usage::{ClickHouse, Generations, Measure, Measures, MetricUsage, UsageRow, Window};

const OTHER: BillableMetricId = BillableMetricId::from_u128(0xC2);

fn of(metric: BillableMetricId, measure: Measure) -> Measures {
    [(metric, measure)].into_iter().collect()
}

async fn read(database: &ClickHouse, windows: &[Window], measures: &Measures) -> Vec<MetricUsage> {
    let none = Generations::default();
    let all = database.usage(ORGANIZATION, windows, measures, &none).await.unwrap();
    all.into_iter().map(Result::unwrap).collect()
}

#[tokio::test]
async fn a_query_names_no_column_that_no_metric_needs() {
    let database = database().await;
    let windows = [window(MARCH.0, MARCH.1)];
    let columns = ["total", "value_seconds", "greatest", "latest"];
    for (measure, needed) in [
        (Measure::Events, vec![]),
        (Measure::Distinct, vec![]),
        (Measure::Total, vec!["total"]),
        (Measure::Weighted, vec!["total", "value_seconds"]),
        (Measure::Greatest, vec!["greatest"]),
        (Measure::Latest, vec!["latest"]),
    ] {
        let (measures, none) = (of(METRIC, measure), Generations::default());
        let plan = database.explain_usage(ORGANIZATION, &windows, &measures, &none).await.unwrap();
        let aggregates: Vec<_> = plan.lines().filter(|line| line.contains("Aggregates:")).collect();
        assert_eq!(aggregates.len(), 1, "{plan}");
        for column in columns {
            let is_read = aggregates.iter().any(|line| line.contains(column));
            assert_eq!(is_read, needed.contains(&column), "{measure:?}, {column}: {plan}");
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_is_the_same_alone_as_among_all() {
    let database = database().await;
    let (early, late) = ("2026-03-05T10:07:30.5Z", "2026-03-20T23:59:59.999999Z");
    let rows = [(early, "3.5"), (late, "-1.25")].map(|(time, amount)| usage(time, amount));
    let others = rows.clone().map(|row| UsageRow { metric: OTHER, ..row });
    insert_usage(&database, rows.into_iter().chain(others)).await;
    insert_values(&database, [value(early, "ann", true), value(late, "bob", true)]).await;
    let windows = [window(MARCH.0, MARCH.1)];
    let all = read(&database, &windows, &everything()).await;
    let [whole, other] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((other.metric, other.total), (OTHER, whole.total));
    let blank = MetricUsage {
        total: quantity("0"),
        greatest: None,
        latest: None,
        distinct: 0,
        value_seconds: "0".into(),
        ..whole.clone()
    };
    for (measure, expected) in [
        (Measure::Events, blank.clone()),
        (Measure::Total, MetricUsage { total: whole.total, ..blank.clone() }),
        (
            Measure::Weighted,
            MetricUsage {
                total: whole.total,
                value_seconds: whole.value_seconds.clone(),
                ..blank.clone()
            },
        ),
        (Measure::Greatest, MetricUsage { greatest: whole.greatest, ..blank.clone() }),
        (Measure::Latest, MetricUsage { latest: whole.latest, ..blank.clone() }),
        (Measure::Distinct, MetricUsage { distinct: 2, ..blank.clone() }),
    ] {
        assert_eq!(
            read(&database, &windows, &of(METRIC, measure)).await,
            [expected],
            "{measure:?}"
        );
    }
    // A metric that is measured otherwise beside it gives nothing away.
    let both = [(METRIC, Measure::Events), (OTHER, Measure::Weighted)].into_iter().collect();
    let found = read(&database, &windows, &both).await;
    assert_eq!((&found[0], &found[1].value_seconds), (&blank, &other.value_seconds));
    assert_eq!(read(&database, &windows, &Measures::default()).await, []);
}

/// Windows of one subscription are told apart by a join, those of different ones by themselves.
#[tokio::test]
async fn a_window_s_usage_does_not_depend_on_which_others_are_asked_for() {
    let database = database().await;
    let subscriptions = [0xB1, 0xB2, 0xB3].map(SubscriptionId::from_u128);
    let times = ["2026-02-27T10:00:00Z", "2026-03-01T00:05:00Z", "2026-03-10T10:00:00Z", MARCH.1];
    for (subscription, amount) in subscriptions.into_iter().zip(["1", "10", "100"]) {
        let rows = times.map(|time| UsageRow { subscription, ..usage(time, amount) });
        insert_usage(&database, rows).await;
        insert_values(
            &database,
            times.map(|time| weir_usage::UsageValueRow { subscription, ..value(time, time, true) }),
        )
        .await;
    }
    let span = |place: usize, start, end| (subscriptions[place], at(start), at(end));
    let asked = [
        vec![span(0, MARCH.0, MARCH.1), span(1, MARCH.0, MARCH.1), span(2, MARCH.0, MARCH.1)],
        vec![span(0, "2026-02-01T00:00:00Z", MARCH.1), span(2, "2026-03-10T00:00:00Z", MARCH.1)],
        vec![span(1, MARCH.0, "2026-03-10T10:00:00.5Z"), span(0, MARCH.0, MARCH.1)],
        vec![span(1, "2026-02-01T00:00:00Z", MARCH.1), span(1, MARCH.0, MARCH.1)],
    ];
    let mut alone = 0;
    for windows in asked {
        let together = read(&database, &windows, &everything()).await;
        let mut apart = Vec::new();
        for (place, one) in windows.iter().enumerate() {
            let found = read(&database, &[*one], &everything()).await;
            apart.extend(found.into_iter().map(|usage| MetricUsage { window: place, ..usage }));
        }
        alone += apart.len();
        assert_eq!(together, apart, "{windows:?}");
    }
    assert_eq!(alone, 9, "each window has usage");
}

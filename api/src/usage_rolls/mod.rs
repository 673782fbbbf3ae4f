//! `UsageRollService`: how far usage that is counted again is.

use crate::{context::Api, error::OpError, fields::timestamp_out};
use tonic::{Request, Response, Status};
use weir_proto::v2::{
    self, UsageRollKind as Kind, UsageRollStatus, usage_roll_service_server::UsageRollService,
};
use weir_store::{
    StoreError,
    rolls::{self, RollProgress, RollState, RollSubject},
};

#[tonic::async_trait]
impl UsageRollService for Api {
    async fn list(
        &self,
        request: Request<v2::ListUsageRollsRequest>,
    ) -> Result<Response<v2::ListUsageRollsResponse>, Status> {
        let ctx = self.context(&request)?;
        // Outside a tenant's transaction, which does not see the partitions.
        let connection = ctx.pool.acquire().await.map_err(StoreError::from);
        let mut connection = connection.map_err(OpError::from)?;
        let rolls = rolls::progress(&mut connection, ctx.organization).await;
        let rolls = rolls.map_err(OpError::from)?;
        let items = rolls.iter().map(roll_out).collect();
        Ok(Response::new(v2::ListUsageRollsResponse { items }))
    }
}

fn roll_out(roll: &RollProgress) -> v2::UsageRoll {
    let status = match roll.state {
        RollState::Waiting => UsageRollStatus::Waiting,
        RollState::Rolling => UsageRollStatus::Rolling,
        RollState::Done => UsageRollStatus::Done,
        RollState::Abandoned => UsageRollStatus::Abandoned,
    };
    let (kind, metric, subscriptions, cells) = match roll.subject {
        RollSubject::Metric(metric) => (Kind::Metric, Some(metric), None, None),
        RollSubject::Subscriptions(count) => (Kind::Subscriptions, None, Some(count), None),
        RollSubject::Cells(count) => (Kind::Cells, None, None, Some(count)),
    };
    v2::UsageRoll {
        generation: roll.generation,
        kind: kind.into(),
        status: status.into(),
        billable_metric_id: metric.map(|metric| metric.to_string()),
        subscriptions_count: subscriptions,
        cells_count: cells,
        percent: roll.percent(),
        partitions: roll.partitions,
        partitions_done: roll.partitions_done,
        requested_at: Some(timestamp_out(roll.requested_at)),
        started_at: roll.started_at.map(timestamp_out),
        ended_at: roll.ended_at.map(timestamp_out),
    }
}

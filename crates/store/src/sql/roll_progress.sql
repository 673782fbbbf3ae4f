SELECT r.generation, r.kind, r.metric_id, r.state, r.requested_at, r.started_at, r.ended_at,
    (SELECT count(*) FROM usage_roll_cells c WHERE c.generation = r.generation) AS "cells!",
    (SELECT count(*) FROM log_partitions) AS "partitions!"
FROM usage_rolls r
WHERE r.organization_id = $1
  AND (
      r.state IN ('waiting', 'rolling')
      OR r.generation IN (
          SELECT generation
          FROM usage_rolls
          WHERE organization_id = $1 AND state IN ('done', 'abandoned')
          ORDER BY generation DESC
          LIMIT $2
      )
  )
ORDER BY r.generation DESC

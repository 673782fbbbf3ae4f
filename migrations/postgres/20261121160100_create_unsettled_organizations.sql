-- Who must wait for an invoice is said once: whose usage is about to change by a roll or a void.
CREATE VIEW unsettled_organizations AS
SELECT organization_id FROM usage_rolls WHERE state IN ('waiting', 'rolling')
UNION
SELECT organization_id FROM event_voids WHERE generation IS NULL;

-- A line names the filter and the group that it bills, and a line may correct a past one.
ALTER TABLE fees
    ADD COLUMN filter_id uuid,
    -- By pricing group key the value, null where the events lack it; none without group keys.
    ADD COLUMN group_values jsonb CHECK (jsonb_typeof(group_values) = 'object'),
    -- Of a true-up, the line that billed the period first.
    ADD COLUMN corrects_fee_id uuid,
    DROP CONSTRAINT fees_kind_check,
    DROP CONSTRAINT fees_events_check,
    DROP CONSTRAINT fees_charge_fits_kind,
    ADD CONSTRAINT fees_kind_check CHECK (kind IN ('subscription', 'charge', 'true_up')),
    -- A true-up after voids takes events away.
    ADD CONSTRAINT fees_events_check CHECK (events >= 0 OR kind = 'true_up'),
    ADD CONSTRAINT fees_charge_fits_kind CHECK (
        (kind <> 'subscription') = (charge_id IS NOT NULL)
        AND (kind <> 'subscription') = (metric_id IS NOT NULL)
        AND (kind <> 'subscription') = (events IS NOT NULL)
        AND (kind <> 'subscription' OR (filter_id IS NULL AND group_values IS NULL))
        AND (kind = 'true_up' OR corrects_fee_id IS NULL)
    );

-- What has been corrected of a subscription's past periods.
CREATE INDEX fees_true_ups ON fees (organization_id, subscription_id, period_start)
    WHERE kind = 'true_up';

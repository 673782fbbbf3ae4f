-- What each tenant may decide for itself about its events.
ALTER TABLE organizations
    -- Events without a known metric or subscription are stored, and count once there is one.
    ADD COLUMN lenient boolean NOT NULL DEFAULT false,
    -- Whether such events may be there.
    ADD COLUMN ever_lenient boolean NOT NULL DEFAULT false,
    -- What becomes of usage that arrives for a period whose invoice is final.
    ADD COLUMN late_events text NOT NULL DEFAULT 'true_up'
        CHECK (late_events IN ('true_up', 'ignore')),
    -- What the edge takes each second; none: no bound.
    ADD COLUMN events_per_second_max integer CHECK (events_per_second_max >= 1),
    ADD CONSTRAINT organizations_lenient_is_remembered CHECK (ever_lenient OR NOT lenient);

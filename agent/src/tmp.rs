use pod::plan::*;
pub fn plan(_v: &View<'_>) -> Plan {
    Plan::default()
}
pub fn step_backoff(_k: &StepKey, _c: u32) -> std::time::Duration {
    std::time::Duration::from_secs(1)
}

//! Does one step, exactly as planned: no policy. Driven by a worker; acts only through the seams.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pod::content::Contents;
use pod::desired::DesiredPod;
use pod::name::{RunKey, Uid, WorkloadKey};
use pod::plan::{Hook, Signal};
use pod::record::Record;
use pod::resolve;
use pod::spec::{Container, EnvValue, EnvVar, PodTemplate, PullPolicy};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::probes::handlers::{self, Answer, Blame, NotDone, Target};
use crate::records::Records;
use crate::seams::{
    self, CreateRun, CreatedRun, ImageNews, ImageWanted, Leave, LogPipes, Machine, PodRuns, Prepared, Projected, Reach,
    Runtime, Sandboxes, ShimEnd, StepError, Warned,
};

/// An admitted pod with its template read back.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub record: Record,
    pub template: Arc<PodTemplate>,
}

/// Who is told of what happens in the middle of a job.
pub struct Told(pub Box<dyn Fn(ImageNews) + Send + Sync>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

/// A step together with everything that it needs: owned, so that it outlives the worker's next look.
#[derive(Debug)]
pub enum Job {
    Admit {
        wanted: Box<DesiredPod>,
        record: Box<Record>,
    },
    Save {
        record: Box<Record>,
    },
    /// What of a pod needs no record: see [`Ahead`].
    Ahead {
        pod: Admitted,
        place: OwnedSemaphorePermit,
    },
    /// `news` is told what happens in between.
    PrepareImage {
        pod: Admitted,
        container: usize,
        news: Told,
    },
    SetUp {
        pod: Admitted,
        /// Or why they cannot be made.
        files: Result<Projected, StepError>,
    },
    Fill {
        uid: Uid,
        files: Projected,
    },
    Connect {
        pod: Admitted,
    },
    Create {
        pod: Admitted,
        container: usize,
        attempt: u32,
        not_refreshed: String,
        contents: Contents,
        /// Where the container finds the API: of a pod of a control endpoint.
        api: Option<(String, u16)>,
    },
    /// `runs`: those that are created or run.
    Resize {
        pod: Admitted,
        runs: Vec<RunKey>,
    },
    Start {
        run: RunKey,
    },
    Signal {
        run: RunKey,
        signal: Signal,
    },
    Hook {
        pod: Admitted,
        container: usize,
        attempt: u32,
        hook: Hook,
        address: Option<IpAddr>,
    },
    /// `unsaid`: the record of the pod where the run failed without a word: the last lines of its log are to be shown.
    Delete {
        run: RunKey,
        unsaid: Option<Box<Record>>,
    },
    EndShim {
        pod: PodRuns,
    },
    TearDown {
        uid: Uid,
        leave: Leave,
    },
    Forget {
        record: Box<Record>,
    },
}

/// What was done for a pod while its record was on its way to the disk.
#[derive(Debug)]
pub struct Ahead {
    pub uid: Uid,
    /// Its surroundings.
    pub made: Result<Vec<Warned>, StepError>,
    /// Containers whose images were found here, as their pull policy asks.
    pub images: Vec<String>,
}

/// What a job that succeeded has changed, for the worker's view.
#[derive(Debug)]
pub enum Outcome {
    Admitted {
        wanted: Box<DesiredPod>,
        record: Box<Record>,
    },
    Saved {
        record: Box<Record>,
    },
    Ahead(Box<Ahead>),
    ImageReady {
        uid: Uid,
        container: String,
        prepared: Prepared,
    },
    /// Nobody waits for it any more.
    GivenUp,
    /// `failed`: why, when it did.
    Hooked {
        run: RunKey,
        hook: Hook,
        failed: Option<String>,
    },
    SetUp {
        uid: Uid,
        warned: Vec<Warned>,
    },
    Filled {
        uid: Uid,
    },
    Connected {
        uid: Uid,
        ips: Vec<IpAddr>,
    },
    Created {
        run: RunKey,
        created: CreatedRun,
        not_refreshed: String,
    },
    Resized {
        uid: Uid,
        number: u64,
    },
    Started {
        run: RunKey,
        pid: u32,
    },
    Signalled {
        run: RunKey,
        signal: Signal,
    },
    Deleted {
        run: RunKey,
        last_lines: Option<String>,
    },
    ShimEnd {
        uid: Uid,
        end: ShimEnd,
    },
    TornDown {
        uid: Uid,
    },
    Forgotten {
        uid: Uid,
    },
}

impl Job {
    /// The kubelet's word for what a worker does in it.
    fn operation(&self) -> &'static str {
        match self {
            Job::Admit { .. } => "create",
            Job::Save { .. }
            | Job::Ahead { .. }
            | Job::PrepareImage { .. }
            | Job::SetUp { .. }
            | Job::Fill { .. }
            | Job::Connect { .. }
            | Job::Create { .. }
            | Job::Resize { .. }
            | Job::Start { .. }
            | Job::Hook { hook: Hook::PostStart, .. } => "sync",
            Job::Hook { hook: Hook::PreStop, .. }
            | Job::Signal { .. }
            | Job::Delete { .. }
            | Job::EndShim { .. }
            | Job::TearDown { .. }
            | Job::Forget { .. } => "terminate",
        }
    }
}

/// What all jobs act on.
#[derive(Debug)]
pub struct Ground<'a, M> {
    pub machine: &'a M,
    pub records: &'a Records,
    pub gate: &'a Gate,
    pub metrics: &'a Metrics,
}

/// Runs the job to its end.
pub async fn execute<M: Machine>(
    ground: &Ground<'_, M>,
    workload: &WorkloadKey,
    job: Job,
) -> Result<Outcome, StepError> {
    let (operation, begun) = (job.operation(), Instant::now());
    let outcome = run(ground, workload, job).await;
    ground.metrics.pod_worker(operation, begun.elapsed());
    outcome
}

async fn run<M: Machine>(ground: &Ground<'_, M>, workload: &WorkloadKey, job: Job) -> Result<Outcome, StepError> {
    let Ground { machine, records, gate, metrics } = *ground;
    match job {
        Job::Admit { wanted, record } => {
            save(machine, records, &record).await?;
            Ok(Outcome::Admitted { wanted, record })
        }
        Job::Save { record } => {
            save(machine, records, &record).await?;
            Ok(Outcome::Saved { record })
        }
        Job::PrepareImage { pod, container, news } => {
            let spec = &pod.template.spec;
            let (container, secrets) = (&spec.containers[container], spec.image_pull_secrets.as_slice());
            let (image, pull_policy) = (container.image.as_str(), container.pull_policy);
            let ran = pod.record.remembered(&container.name).is_some_and(|memory| memory.started_attempt.is_some());
            let patience = ran.then_some(RESTART_PATIENCE);
            let namespace = workload.namespace.as_str();
            let wanted = ImageWanted { image, pull_policy, namespace, secrets, patience, news: &news.0 };
            let mut prepared = counted(metrics, "prepare_image", machine.runtime().prepare_image(wanted)).await?;
            // That a volume's image is pulled is told when it is done: what is told before is about the container's.
            let quiet = |news_of_volume: ImageNews| match news_of_volume {
                ImageNews::Pulling | ImageNews::Progress(_) => {}
                ImageNews::SecretsMissing(_) => (news.0)(news_of_volume),
            };
            for (name, volume) in spec.image_volumes(container) {
                let (image, pull_policy) = (volume.reference.as_str(), volume.pull_policy);
                let wanted = ImageWanted { image, pull_policy, news: &quiet, ..wanted };
                let of_volume = counted(metrics, "prepare_image", machine.runtime().prepare_image(wanted)).await;
                let of_volume = of_volume.map_err(|error| StepError {
                    message: format!("{}{name}: {}", seams::OF_VOLUME, error.message),
                    ..error
                })?;
                prepared = prepared.and(of_volume);
            }
            Ok(Outcome::ImageReady { uid: pod.record.uid, container: container.name.clone(), prepared })
        }
        Job::Fill { uid, files } => {
            machine.sandboxes().fill(&uid, &files).await?;
            Ok(Outcome::Filled { uid })
        }
        Job::SetUp { pod, files } => {
            let files = files?;
            if !files.is_empty() {
                machine.sandboxes().fill(&pod.record.uid, &files).await?;
            }
            let warned = Box::pin(set_up(ground, &pod)).await?;
            Ok(Outcome::SetUp { uid: pod.record.uid, warned })
        }
        Job::Ahead { pod, place } => {
            let (made, images) = tokio::join!(Box::pin(set_up(ground, &pod)), Box::pin(images_here(machine, &pod)));
            drop(place);
            Ok(Outcome::Ahead(Box::new(Ahead { uid: pod.record.uid, made, images })))
        }
        Job::Connect { pod } => {
            let _permit = gate.enter(pod.template.spec.priority).await;
            let ips = Box::pin(machine.sandboxes().connect(&pod.record, &pod.template)).await?;
            Ok(Outcome::Connected { uid: pod.record.uid, ips })
        }
        Job::Create { pod, container, attempt, not_refreshed, contents, api } => {
            // On the heap: it is the largest thing here, and every job has room for it as long as it lives.
            let mut container = Box::new(environment(&pod, container, &contents)?);
            if let Some((host, port)) = api {
                add_service(&mut container, &host, port);
            }
            Box::pin(create(ground, workload, &pod, (&container, attempt), not_refreshed)).await
        }
        Job::Resize { pod, runs } => Box::pin(resize(ground, pod, runs)).await,
        Job::Start { run } => {
            let started = counted(metrics, "start_container", machine.runtime().start(&run.container_id())).await;
            metrics.container_started(started.as_ref().map(|_| ()).map_err(|error| error.reason));
            let pid = started?;
            Ok(Outcome::Started { run, pid })
        }
        Job::Signal { run, signal } => {
            counted(metrics, "stop_container", machine.runtime().signal(&run.container_id(), signal)).await?;
            Ok(Outcome::Signalled { run, signal })
        }
        Job::Hook { pod, container, attempt, hook, address } => {
            let container = &pod.template.spec.containers[container];
            let run = RunKey { uid: pod.record.uid.clone(), container: container.name.clone(), attempt };
            let failed = Box::pin(run_hook(machine, container, &run, hook, address)).await?;
            Ok(Outcome::Hooked { run, hook, failed })
        }
        Job::Delete { run, unsaid } => {
            let id = run.container_id();
            counted(metrics, "remove_container", machine.runtime().delete(&id)).await?;
            // Only now have all writers closed, so that the keeper reads to the end.
            machine.logs().close(&id).await?;
            machine.sandboxes().remove_words(&run);
            let last_lines = match &unsaid {
                Some(record) => machine.logs().last_lines(record, &run).await,
                None => None,
            };
            Ok(Outcome::Deleted { run, last_lines })
        }
        Job::EndShim { pod } => {
            let end = counted(metrics, "stop_podsandbox", machine.runtime().end_shim(&pod)).await?;
            Ok(Outcome::ShimEnd { uid: pod.uid, end })
        }
        Job::TearDown { uid, leave } => {
            Box::pin(machine.sandboxes().tear_down(&uid, leave)).await?;
            Ok(Outcome::TornDown { uid })
        }
        Job::Forget { record } => {
            // Volumes may be left of surroundings that were lost while the pod lived.
            Box::pin(machine.sandboxes().tear_down(&record.uid, Leave::Nothing)).await?;
            machine.logs().forget(&record).await?;
            records
                .remove(machine.files(), &record.uid)
                .await
                .map_err(|e| StepError::new("FailedRecord", chain(&e)))?;
            Ok(Outcome::Forgotten { uid: record.uid })
        }
    }
}

async fn set_up<M: Machine>(ground: &Ground<'_, M>, pod: &Admitted) -> Result<Vec<Warned>, StepError> {
    let Ground { machine, metrics, .. } = *ground;
    machine.runtime().takes(&pod.template.spec).await?;
    let made = machine.sandboxes().set_up(&pod.record, &pod.template).await;
    metrics.sandbox_made(made.is_ok());
    made
}

/// Containers whose images are here, where that is all that their pull policy asks. No registry is asked and nothing is told: whatever is
/// not simply here is the matter of its own step.
async fn images_here<M: Machine>(machine: &M, pod: &Admitted) -> Vec<String> {
    let spec = &pod.template.spec;
    let mut here = Vec::new();
    for container in &spec.containers {
        if container.pull_policy == PullPolicy::Always || spec.image_volumes(container).next().is_some() {
            continue;
        }
        let wanted = ImageWanted { pull_policy: PullPolicy::Never, ..ImageWanted::quietly(container) };
        // By its address, as elsewhere: otherwise there would be two copies of its code.
        let looking: Pin<Box<dyn Future<Output = Result<Prepared, StepError>> + Send + '_>> =
            Box::pin(machine.runtime().prepare_image(wanted));
        let found = tokio::time::timeout(AHEAD_PATIENCE, looking).await;
        if !matches!(found, Ok(Ok(Prepared::AsAsked))) {
            break;
        }
        here.push(container.name.clone());
    }
    here
}

/// Why the hook failed, when it did. Without a hook there is nothing to do, which cannot fail. Err: it could not be run at present.
async fn run_hook<M: Machine>(
    machine: &M,
    container: &Container,
    run: &RunKey,
    hook: Hook,
    address: Option<IpAddr>,
) -> Result<Option<String>, StepError> {
    let handler = match hook {
        Hook::PostStart => container.hooks.post_start.as_ref(),
        Hook::PreStop => container.hooks.pre_stop.as_ref(),
    };
    let Some(handler) = handler else { return Ok(None) };
    let id = run.container_id();
    let target = Target { container_id: &id, container, address };
    match handlers::hook(machine.runtime(), handler, target).await {
        Ok(Answer::Success | Answer::Warning(_)) => Ok(None),
        Ok(Answer::Failure(why)) | Err(NotDone(why, Blame::Asked)) => Ok(Some(why)),
        // That containerd is away says nothing about the container.
        Err(NotDone(why, Blame::Node)) => Err(StepError::unavailable("ContainerCreating", why)),
    }
}

async fn save<M: Machine>(machine: &M, records: &Records, record: &Record) -> Result<(), StepError> {
    records.save(machine.files(), record).await.map_err(|e| StepError::new("FailedRecord", chain(&e)))
}

/// A call of the runtime, counted and timed, under the kubelet's name for it where it has one.
///
/// The call lies on the heap while it is under way, because a job that waits for its turn to make it should take no more
/// memory than it needs to wait: at a start there is one for every pod.
pub fn counted<'a, T: 'a>(
    metrics: &'a Metrics,
    operation: &'static str,
    call: impl Future<Output = Result<T, StepError>> + Send + 'a,
) -> impl Future<Output = Result<T, StepError>> + Send + 'a {
    let call: Pin<Box<dyn Future<Output = Result<T, StepError>> + Send + 'a>> = Box::pin(call);
    async move {
        let begun = Instant::now();
        let outcome = call.await;
        metrics.runtime_operation(operation, begun.elapsed(), outcome.is_ok());
        outcome
    }
}

/// How long a container that has run before waits for a registry's word (`imagePullPolicy: Always`): a daemon that was killed is to be
/// back soon, and a registry that answers at all does so within a fraction of this.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);

/// How long the look for an image that may be here takes before its own step is to do it: two calls of a containerd that is not busy take
/// a fiftieth of that, and the pod's surroundings wait for it.
const AHEAD_PATIENCE: Duration = Duration::from_millis(50);

/// What waits for a ConfigMap or Secret is woken when it comes; this is for a wake that was lost.
pub const AGAIN: Duration = Duration::from_secs(300);

/// The container with its environment looked up. What is missing wakes the worker when it comes.
fn environment(pod: &Admitted, container: usize, contents: &Contents) -> Result<Container, StepError> {
    let (container, namespace) = (&pod.template.spec.containers[container], &pod.record.workload.namespace);
    let missing = |why: resolve::Missing| {
        let error = StepError::new("CreateContainerConfigError", why.to_string());
        StepError { wait: Some(AGAIN), ..error }
    };
    resolve::environment(container, namespace, contents).map_err(missing)
}

/// What Kubernetes gives every container of its own service, by which client libraries find it; the container's own variables come
/// after and win.
fn add_service(container: &mut Container, host: &str, port: u16) {
    let port = port.to_string();
    let variables = [
        ("KUBERNETES_SERVICE_HOST", host),
        ("KUBERNETES_SERVICE_PORT", &port),
        ("KUBERNETES_SERVICE_PORT_HTTPS", &port),
    ];
    let literal = |(name, value): (&str, &str)| EnvVar { name: name.into(), value: EnvValue::Literal(value.into()) };
    container.env.splice(0..0, variables.map(literal));
}

async fn create<M: Machine>(
    ground: &Ground<'_, M>,
    workload: &WorkloadKey,
    pod: &Admitted,
    (container, attempt): (&Container, u32),
    not_refreshed: String,
) -> Result<Outcome, StepError> {
    let Ground { machine, gate, metrics, .. } = *ground;
    let _permit = gate.enter(pod.template.spec.priority).await;
    let run = RunKey { uid: pod.record.uid.clone(), container: container.name.clone(), attempt };
    // What only other containers mount is not looked at, and not made: an init container may be about to provide it.
    let mut own = PodTemplate::clone(&pod.template);
    own.spec.volumes.retain(|volume| container.uses(&volume.name));
    let mut sandbox = machine.sandboxes().describe(&pod.record, &own).await?;
    sandbox.files.insert(container.last_words.path.clone(), machine.sandboxes().make_words(&run)?);
    let (stdout, stderr) = machine.logs().open(&pod.record, &run).await?;
    let create = CreateRun {
        run: run.clone(),
        workload,
        record: &pod.record,
        template: &pod.template,
        container,
        sandbox: &sandbox,
        stdout,
        stderr,
        not_refreshed: &not_refreshed,
    };
    let created = counted(metrics, "create_container", machine.runtime().create(&create)).await;
    if let Err(error) = &created {
        metrics.container_started(Err(error.reason));
    }
    let created = created?;
    Ok(Outcome::Created { run, created, not_refreshed })
}

/// The pod grows first and shrinks last, so that no container ever has more than its pod. A container that is refused keeps no
/// other from what it is to have, but the pod from shrinking.
async fn resize<M: Machine>(ground: &Ground<'_, M>, pod: Admitted, runs: Vec<RunKey>) -> Result<Outcome, StepError> {
    let Ground { machine, metrics, .. } = *ground;
    let (uid, template) = (&pod.record.uid, &pod.template);
    machine.sandboxes().resize(uid, template, Reach::Widened).await?;
    let mut all = Ok(());
    for run in &runs {
        if let Some(container) = template.spec.container(&run.container) {
            let id = run.container_id();
            let resized = machine.runtime().resize(&id, container);
            all = all.and(counted(metrics, "update_container", resized).await);
        }
    }
    all?;
    machine.sandboxes().resize(uid, template, Reach::Exact).await?;
    Ok(Outcome::Resized { uid: pod.record.uid, number: pod.record.course.resizes })
}

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

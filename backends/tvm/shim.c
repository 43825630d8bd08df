/* Makes TVM's kernels a custom op of ONNX Runtime. Needs libc alone.
 *
 * Written from the public documentation of two binary interfaces, of which only the pieces in use are declared:
 *
 * ONNX Runtime's C API (https://onnxruntime.ai/docs/api/c/): `OrtApi` is a table of function pointers to which
 * entries are only ever added at the end, so that the number of an entry never changes; GetApi(version) returns
 * NULL where the runtime is older than the version asked for. `OrtCustomOp` grows in the same way and names the
 * version that it was written for.
 *
 * TVM's FFI (tvm_ffi/c_api.h): a kernel is int f(void *self, const TVMFFIAny *args, int32_t count, TVMFFIAny
 * *result), 0 for success; arguments are integers (type 1) or bare pointers (type 4). It reports what is wrong
 * with its arguments through TVMFFIErrorSetRaisedFromCStrParts, which is defined here.
 *
 * kernels.h, written for each library, holds the table KERNELS, the version, and the processor features.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>

#define EXPORT __attribute__((visibility("default")))

/* ---- TVM ---- */

typedef struct { int32_t type; uint32_t zero; union { int64_t integer; void *pointer; } value; } Any; /* TVMFFIAny */
typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

enum { ANY_INTEGER = 1, ANY_POINTER = 4 };

typedef struct {
  const char *name;
  Kernel run;
  int64_t tile;      /* rows: rows in a tile; images: 0 */
  int64_t tiles;     /* images: tiles of one image times groups */
  int64_t parts;     /* the most parts into which the outputs of a tile can be cut */
  int64_t inputs;    /* rows: entries of one; images: channels */
  int64_t outputs;   /* the same of the result */
  int64_t size[2], out[2]; /* images: height and width */
  int64_t scratch;   /* floats */
  int offset_bits;
} Entry;

#include "kernels.h" /* ENTRIES, KERNELS[], FEATURES[] on x86, THREADS, LIBRARY_VERSION */

static _Thread_local char said[512]; /* the last complaint of a kernel */

EXPORT void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  snprintf(said, sizeof said, "%s: ", kind);
  for (int32_t i = 0; i < count; i++)
    if (parts[i]) strncat(said, parts[i], sizeof said - strlen(said) - 1);
}

/* ---- ONNX Runtime ---- */

typedef struct OrtStatus OrtStatus;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtValue OrtValue;
typedef struct OrtTensorInfo OrtTensorInfo;
typedef void *const *OrtApi; /* a table of function pointers */
typedef struct { OrtApi (*GetApi)(uint32_t); const char *(*GetVersionString)(void); } OrtApiBase;

enum { API_VERSION = 20, FAIL = 1, INVALID_ARGUMENT = 2 };
enum { TYPE_ANY = 0, TYPE_FLOAT = 1, TYPE_UINT8 = 2, TYPE_UINT16 = 4, TYPE_INT32 = 6 };

/* Numbers of the entries of OrtApi. Those below 100 are from version 1, which cannot change. */
enum {
  CreateStatus = 0, CreateCustomOpDomain = 26, CustomOpDomain_Add = 27, AddCustomOpDomain = 28,
  GetTensorMutableData = 51, CreateTensorTypeAndShapeInfo = 57, SetTensorElementType = 58, SetDimensions = 59,
  GetTensorElementType = 60, GetDimensionsCount = 61, GetDimensions = 62, GetSymbolicDimensions = 63,
  GetTensorTypeAndShape = 65, KernelContext_GetInput = 90,
  KernelContext_GetOutput = 91, ReleaseStatus = 93, ReleaseTensorTypeAndShapeInfo = 99,
  ShapeInferContext_GetInputTypeShape = 268, ShapeInferContext_SetOutputTypeShape = 270, /* version 17 */
  SetSymbolicDimensions = 271, KernelContext_ParallelFor = 274
};
#define CALL(number, result, ...) ((result(*)(__VA_ARGS__))api[number])

typedef struct OrtCustomOp {
  uint32_t version;
  void *(*CreateKernel)(const struct OrtCustomOp *, OrtApi, const OrtKernelInfo *);
  const char *(*GetName)(const struct OrtCustomOp *);
  const char *(*GetExecutionProviderType)(const struct OrtCustomOp *);
  int (*GetInputType)(const struct OrtCustomOp *, size_t);
  size_t (*GetInputTypeCount)(const struct OrtCustomOp *);
  int (*GetOutputType)(const struct OrtCustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const struct OrtCustomOp *);
  void (*KernelCompute)(void *, OrtKernelContext *);
  void (*KernelDestroy)(void *);
  int (*GetInputCharacteristic)(const struct OrtCustomOp *, size_t);
  int (*GetOutputCharacteristic)(const struct OrtCustomOp *, size_t);
  int (*GetInputMemoryType)(const struct OrtCustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const struct OrtCustomOp *);
  int (*GetVariadicInputHomogeneity)(const struct OrtCustomOp *);
  int (*GetVariadicOutputMinArity)(const struct OrtCustomOp *);
  int (*GetVariadicOutputHomogeneity)(const struct OrtCustomOp *);
  OrtStatus *(*CreateKernelV2)(const struct OrtCustomOp *, OrtApi, const OrtKernelInfo *, void **);
  OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
  OrtStatus *(*InferOutputShape)(const struct OrtCustomOp *, void *);
  int (*GetStartVersion)(const struct OrtCustomOp *);
  int (*GetEndVersion)(const struct OrtCustomOp *);
} OrtCustomOp; /* as of version 17 */

enum { CUSTOM_OP_VERSION = 17, MAX_RANK = 16, MOST_TASKS = 64, INPUTS = 5 };

static OrtApi api;

static OrtStatus *failure(int code, const char *message) {
  return CALL(CreateStatus, OrtStatus *, int, const char *)(code, message);
}

/* ---- Working memory: one block for each thread, kept from call to call, freed when the thread ends. ---- */

static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
typedef struct { size_t size; char pad[56]; float data[]; } Scratch;

static void make_key(void) { pthread_key_create(&key, free); } /* libc's own `free` outlives this library */

static Scratch *scratch(int64_t floats) {
  Scratch *block = pthread_getspecific(key);
  if (block && block->size >= (size_t)floats) return block;
  void *made = NULL;
  if (posix_memalign(&made, 64, sizeof(Scratch) + sizeof(float) * (size_t)floats)) return NULL;
  free(block);
  block = made;
  block->size = (size_t)floats;
  if (pthread_setspecific(key, block)) { free(block); return NULL; }
  return block;
}

/* ---- One run of one kernel ---- */

typedef struct {
  const Entry *entry;
  void *data[6];     /* x, values, offsets, starts, bias, y */
  int64_t length[6];
  int64_t n, parts, units, tasks;
  int failed;
  char message[512];
} Run;

static void fail(Run *run, const char *message) {
  if (!__atomic_exchange_n(&run->failed, 1, __ATOMIC_SEQ_CST)) snprintf(run->message, sizeof run->message, "%s", message);
}

/* Units [task * units / tasks, (task + 1) * units / tasks). */
static void work(void *data, size_t task) {
  Run *run = data;
  const Entry *entry = run->entry;
  int64_t first = (int64_t)task * run->units / run->tasks;
  int64_t last = ((int64_t)task + 1) * run->units / run->tasks;
  Scratch *own = scratch(entry->scratch);
  if (!own) { fail(run, "out of memory"); return; }
  Any arguments[11], result = {0, 0, {0}};
  for (int i = 0; i < 6; i++) arguments[i] = (Any){ANY_POINTER, 0, {.pointer = run->data[i]}};
  arguments[6] = (Any){ANY_POINTER, 0, {.pointer = own->data}};
  int64_t numbers[4] = {run->n, run->parts, first, last};
  for (int i = 0; i < 4; i++) arguments[7 + i] = (Any){ANY_INTEGER, 0, {.integer = numbers[i]}};
  said[0] = 0;
  if (entry->run(NULL, arguments, 11, &result)) fail(run, said);
}

/* Cuts the outputs of tiles into parts, so that no thread of those that the kernels were tuned for waits for more than
 * a fifth of the time; and the work into tasks, none of them tiny. */
static void cut(Run *run) {
  const Entry *entry = run->entry;
  int64_t tiles = entry->tile ? (run->n + entry->tile - 1) / entry->tile : run->n * entry->tiles;
  int64_t most = entry->parts < 2 * THREADS ? entry->parts : 2 * THREADS;
  run->parts = 1;
  while (run->parts < most && (tiles * run->parts + THREADS - 1) / THREADS * THREADS * 5 > tiles * run->parts * 6) run->parts++;
  run->units = tiles * run->parts;
  run->tasks = run->units < MOST_TASKS ? run->units : MOST_TASKS;
}

static OrtStatus *input(OrtKernelContext *context, size_t index, int type, Run *run, int64_t *shape, size_t *rank) {
  const OrtValue *value = NULL;
  OrtTensorInfo *info = NULL;
  int found = 0;
  OrtStatus *status = CALL(KernelContext_GetInput, OrtStatus *, OrtKernelContext *, size_t, const OrtValue **)(context, index, &value);
  if (!status) status = CALL(GetTensorTypeAndShape, OrtStatus *, const OrtValue *, OrtTensorInfo **)(value, &info);
  if (status) return status;
  status = CALL(GetTensorElementType, OrtStatus *, OrtTensorInfo *, int *)(info, &found);
  if (!status) status = CALL(GetDimensionsCount, OrtStatus *, OrtTensorInfo *, size_t *)(info, rank);
  if (!status && *rank > MAX_RANK) status = failure(INVALID_ARGUMENT, "pruneopt: more than 16 dimensions");
  if (!status) status = CALL(GetDimensions, OrtStatus *, OrtTensorInfo *, int64_t *, size_t)(info, shape, *rank);
  CALL(ReleaseTensorTypeAndShapeInfo, void, OrtTensorInfo *)(info);
  if (status) return status;
  if (found != type) return failure(INVALID_ARGUMENT, "pruneopt: an input of a sparse kernel has the wrong type");
  run->length[index] = 1;
  for (size_t i = 0; i < *rank; i++) run->length[index] *= shape[i];
  return CALL(GetTensorMutableData, OrtStatus *, OrtValue *, void **)((OrtValue *)value, &run->data[index]);
}

/* The shape of y, from that of x; -1 where x does not fit. */
static int output_shape(const Entry *entry, int64_t *shape, size_t rank, int64_t *n) {
  *n = 1;
  if (entry->tile) {
    if (rank < 1 || shape[rank - 1] != entry->inputs) return -1;
    for (size_t i = 0; i + 1 < rank; i++) *n *= shape[i];
    shape[rank - 1] = entry->outputs;
    return 0;
  }
  if (rank != 4 || shape[1] != entry->inputs || shape[2] != entry->size[0] || shape[3] != entry->size[1]) return -1;
  *n = shape[0];
  shape[1] = entry->outputs;
  shape[2] = entry->out[0];
  shape[3] = entry->out[1];
  return 0;
}

static OrtStatus *compute(void *kernel, OrtKernelContext *context) {
  Run run = {.entry = kernel};
  const int types[INPUTS] = {TYPE_FLOAT, TYPE_FLOAT, run.entry->offset_bits == 8 ? TYPE_UINT8 : run.entry->offset_bits == 16 ? TYPE_UINT16 : TYPE_INT32, TYPE_INT32, TYPE_FLOAT};
  int64_t shape[MAX_RANK], other[MAX_RANK];
  size_t rank = 0, unused = 0;
  for (size_t i = 0; i < INPUTS; i++) {
    OrtStatus *status = input(context, i, types[i], &run, i ? other : shape, i ? &unused : &rank);
    if (status) return status;
  }
  char text[256];
  if (output_shape(run.entry, shape, rank, &run.n)) {
    snprintf(text, sizeof text, "pruneopt: kernel %s was compiled for inputs of another shape", run.entry->name);
    return failure(INVALID_ARGUMENT, text);
  }
  OrtValue *value = NULL;
  OrtStatus *status = CALL(KernelContext_GetOutput, OrtStatus *, OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)(context, 0, shape, rank, &value);
  if (!status) status = CALL(GetTensorMutableData, OrtStatus *, OrtValue *, void **)(value, &run.data[5]);
  if (status) return status;
  run.length[5] = 1;
  for (size_t i = 0; i < rank; i++) run.length[5] *= shape[i];
  if (run.n == 0 || run.length[5] == 0) return NULL;
  if (run.length[0] > INT32_MAX || run.length[5] > INT32_MAX)
    return failure(INVALID_ARGUMENT, "pruneopt: sparse kernels take tensors of at most 2^31 - 1 numbers");
  cut(&run);
  if (run.tasks == 1) work(&run, 0);
  else status = CALL(KernelContext_ParallelFor, OrtStatus *, const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)(
           context, work, (size_t)run.tasks, 0, &run);
  if (status || !run.failed) return status;
  snprintf(text, sizeof text, "pruneopt: kernel %s: %.200s", run.entry->name, run.message);
  return failure(FAIL, text);
}

/* ---- The ops: one for each kernel, of its name ---- */

typedef struct { OrtCustomOp op; const Entry *entry; } Op; /* ONNX Runtime passes the address of `op` back */

static OrtStatus *create(const OrtCustomOp *op, OrtApi unused, const OrtKernelInfo *info, void **kernel) {
  (void)unused; (void)info;
  *kernel = (void *)((const Op *)op)->entry;
  return NULL;
}

/* What is known of y's shape before it runs: optimisers ask for it. Dimensions without a number have a name or none. */
static OrtStatus *infer(const OrtCustomOp *op, void *context) {
  const Entry *entry = ((const Op *)op)->entry;
  OrtTensorInfo *x = NULL, *y = NULL;
  int64_t shape[MAX_RANK], unused;
  const char *names[MAX_RANK] = {0};
  size_t rank = 0;
  OrtStatus *status = CALL(ShapeInferContext_GetInputTypeShape, OrtStatus *, void *, size_t, OrtTensorInfo **)(context, 0, &x);
  if (!status) status = CALL(GetDimensionsCount, OrtStatus *, OrtTensorInfo *, size_t *)(x, &rank);
  if (status || rank == 0 || rank > MAX_RANK) return status;
  status = CALL(GetDimensions, OrtStatus *, OrtTensorInfo *, int64_t *, size_t)(x, shape, rank);
  if (!status) status = CALL(GetSymbolicDimensions, OrtStatus *, OrtTensorInfo *, const char **, size_t)(x, names, rank);
  if (status || output_shape(entry, shape, rank, &unused)) return status;
  for (size_t i = entry->tile ? rank - 1 : 1; i < rank; i++) names[i] = "";
  for (size_t i = 0; i < rank; i++) {
    if (!names[i]) names[i] = "";
    if (*names[i]) shape[i] = -2; /* then the name counts */
  }
  status = CALL(CreateTensorTypeAndShapeInfo, OrtStatus *, OrtTensorInfo **)(&y);
  if (!status) status = CALL(SetTensorElementType, OrtStatus *, OrtTensorInfo *, int)(y, TYPE_FLOAT);
  if (!status) status = CALL(SetDimensions, OrtStatus *, OrtTensorInfo *, const int64_t *, size_t)(y, shape, rank);
  if (!status) status = CALL(SetSymbolicDimensions, OrtStatus *, OrtTensorInfo *, const char **, size_t)(y, names, rank);
  if (!status) status = CALL(ShapeInferContext_SetOutputTypeShape, OrtStatus *, void *, size_t, const OrtTensorInfo *)(context, 0, y);
  if (y) CALL(ReleaseTensorTypeAndShapeInfo, void, OrtTensorInfo *)(y);
  return status;
}

static void destroy(void *kernel) { (void)kernel; }
static const char *op_name(const OrtCustomOp *op) { return ((const Op *)op)->entry->name; }
static const char *provider(const OrtCustomOp *op) { (void)op; return NULL; }
static size_t inputs(const OrtCustomOp *op) { (void)op; return INPUTS; }
static size_t outputs(const OrtCustomOp *op) { (void)op; return 1; }
static int output_type(const OrtCustomOp *op, size_t i) { (void)op; (void)i; return TYPE_FLOAT; }
static int required(const OrtCustomOp *op, size_t i) { (void)op; (void)i; return 0; }
static int memory(const OrtCustomOp *op, size_t i) { (void)op; (void)i; return 0; }
static int one(const OrtCustomOp *op) { (void)op; return 1; }
static int most(const OrtCustomOp *op) { (void)op; return INT32_MAX; }
static int input_type(const OrtCustomOp *op, size_t i) {
  (void)op;
  return i == 2 ? TYPE_ANY : i == 3 ? TYPE_INT32 : TYPE_FLOAT;
}

static const OrtCustomOp MODEL = {
  .version = CUSTOM_OP_VERSION, .GetName = op_name, .GetExecutionProviderType = provider, .GetInputType = input_type,
  .GetInputTypeCount = inputs, .GetOutputType = output_type, .GetOutputTypeCount = outputs, .KernelDestroy = destroy,
  .GetInputCharacteristic = required, .GetOutputCharacteristic = required, .GetInputMemoryType = memory,
  .GetVariadicInputMinArity = one, .GetVariadicInputHomogeneity = one, .GetVariadicOutputMinArity = one,
  .GetVariadicOutputHomogeneity = one, .CreateKernelV2 = create, .KernelComputeV2 = compute, .GetStartVersion = one,
  .InferOutputShape = infer, .GetEndVersion = most,
};

static Op ops[ENTRIES];

static void prepare(void) {
  make_key();
  for (size_t i = 0; i < ENTRIES; i++) ops[i] = (Op){MODEL, &KERNELS[i]};
}

/* ---- Loading ---- */

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
/* The first feature that this processor, or the system that saves its registers, lacks; NULL where none is. */
static const char *missing(void) {
  uint32_t low = 0, high = 0, a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) && (c >> 27 & 1)) __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  for (size_t i = 0; i < sizeof FEATURES / sizeof *FEATURES; i++) {
    a = b = c = d = 0;
    if (!FEATURES[i].name) continue;
    __get_cpuid_count(FEATURES[i].leaf, FEATURES[i].subleaf, &a, &b, &c, &d);
    uint32_t found = FEATURES[i].reg == 'b' ? b : c;
    uint32_t saved = strncmp(FEATURES[i].name, "avx512", 6) ? strncmp(FEATURES[i].name, "avx", 3) ? 0 : 0x06 : 0xe6;
    if (!(found >> FEATURES[i].bit & 1) || (low & saved) != saved) return FEATURES[i].name;
  }
  return NULL;
}
#else
static const char *missing(void) { return NULL; }
#endif

static OrtStatus *refuse(const OrtApiBase *base, const char *text) {
  OrtApi old = base->GetApi(1); /* every runtime has version 1, and with it CreateStatus */
  return old ? ((OrtStatus *(*)(int, const char *))old[CreateStatus])(FAIL, text) : NULL;
}

/* What SessionOptions.register_custom_ops_library calls. */
EXPORT OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  char text[400];
  const char *lacking = missing();
  if (lacking) {
    snprintf(text, sizeof text, "pruneopt: these kernels were compiled for a processor with %s, which this one lacks: run `pruneopt tune` on this machine, or with its --target", lacking);
    return refuse(base, text);
  }
  OrtApi found = base->GetApi(API_VERSION);
  if (!found) {
    snprintf(text, sizeof text, "pruneopt: sparse kernels need ONNX Runtime 1.%d or later; this is %s", API_VERSION, base->GetVersionString());
    return refuse(base, text);
  }
  api = found;
  pthread_once(&once, prepare);
  OrtCustomOpDomain *domain = NULL;
  OrtStatus *status = CALL(CreateCustomOpDomain, OrtStatus *, const char *, OrtCustomOpDomain **)("pruneopt", &domain);
  for (size_t i = 0; i < ENTRIES && !status; i++)
    status = CALL(CustomOpDomain_Add, OrtStatus *, OrtCustomOpDomain *, const OrtCustomOp *)(domain, &ops[i].op);
  if (!status) status = CALL(AddCustomOpDomain, OrtStatus *, OrtSessionOptions *, OrtCustomOpDomain *)(options, domain);
  return status; /* ONNX Runtime keeps a pointer to the domain for as long as sessions live: it is not released */
}

/* So that other programs can tell what they have before they load it. */
EXPORT const char *pruneopt_kernels_version(void) { return LIBRARY_VERSION; }

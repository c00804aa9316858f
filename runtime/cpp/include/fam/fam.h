/* libfam: FAM Diffusion from a bundle, inside an application, without Python.
 *
 * A bundle (made by `fam-export`) goes in, RGB pictures come out:
 *
 *     fam_pipeline *pipeline = NULL;
 *     fam_result *result = NULL;
 *     fam_request request = {.struct_size = sizeof request};
 *     request.prompt = "a green triangle on a cream background";
 *     if (fam_pipeline_open("engines/demo", NULL, &pipeline) != FAM_OK ||
 *         fam_generate(pipeline, &request, &result) != FAM_OK)
 *       fprintf(stderr, "%s\n", fam_last_error());
 *
 * Rules that hold everywhere:
 *
 * - Every struct begins with `struct_size`, which the caller sets to sizeof the struct: so a program
 *   that was compiled with an older or a newer header keeps working. Zero means the default in every
 *   other field, and so does NULL.
 * - All text is UTF-8 and ends with a zero byte.
 * - A function that can fail returns a fam_status. The words for it are in fam_last_error(), which
 *   belongs to the calling thread: what | got | expected | what to do.
 * - What a handle owns (pictures, texts) lives as long as the handle.
 * - Handles of different threads are independent. One pipeline makes one picture at a time: a call
 *   while another is running returns FAM_ERROR_BUSY at once; fam_pipeline_cancel may be called from
 *   any thread. A result may be read by several threads, and outlives its pipeline.
 * - No function throws, prints, or reads the environment.
 */
#ifndef FAM_FAM_H_
#define FAM_FAM_H_

#include <stddef.h>
#include <stdint.h>

#if defined(FAM_STATIC)
#define FAM_API
#elif defined(_WIN32)
#ifdef FAM_BUILDING
#define FAM_API __declspec(dllexport)
#else
#define FAM_API __declspec(dllimport)
#endif
#else
#define FAM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows with every change of the ABI that an older program could notice. */
#define FAM_ABI_VERSION 1

/* The ABI version of the library that was loaded; compare it with FAM_ABI_VERSION. */
FAM_API uint32_t fam_abi_version(void);

/* The library's version, such as "0.1.0". */
FAM_API const char *fam_version(void);

typedef enum fam_status {
  FAM_OK = 0,
  FAM_ERROR_INVALID_REQUEST = 1,            /* an argument cannot be used */
  FAM_ERROR_TARGET_NOT_BUILT = 2,           /* the bundle has no graph for this size */
  FAM_ERROR_BUNDLE_NOT_FOUND = 3,           /* there is no bundle at this path */
  FAM_ERROR_BUNDLE_DAMAGED = 4,             /* a file is missing or altered, or breaks the format */
  FAM_ERROR_BUNDLE_PATH_REFUSED = 5,        /* a name in the bundle leaves its root */
  FAM_ERROR_BUNDLE_VERSION_UNSUPPORTED = 6, /* written in a newer format */
  FAM_ERROR_STORAGE = 7,                    /* the disk is full, or a place may not be written */
  FAM_ERROR_BACKEND = 8,                    /* the inference library is missing or failed */
  FAM_ERROR_OUT_OF_MEMORY = 9,              /* graphs or buffers do not fit in memory */
  FAM_ERROR_NUMERIC = 10,                   /* a picture holds NaN or infinity */
  FAM_ERROR_CANCELLED = 11,                 /* the callback, or fam_pipeline_cancel, stopped it */
  FAM_ERROR_BUSY = 12,                      /* the pipeline is making another picture */
  FAM_ERROR_INTERNAL = 13                   /* a mistake of this library */
} fam_status;

/* "FAM_ERROR_BUNDLE_DAMAGED" and so on; "unknown status" for any other number. */
FAM_API const char *fam_status_name(fam_status status);

/* What went wrong in the last call of this thread that failed; "" before the first one. It stays
 * valid until the next call of this thread that fails. */
FAM_API const char *fam_last_error(void);

/* ---- Progress ------------------------------------------------------------------------------- */

typedef enum fam_phase {
  FAM_PHASE_CHECKING = 0, /* the bundle's files are hashed; steps are bytes */
  FAM_PHASE_TEXT = 1,     /* prompts are encoded */
  FAM_PHASE_NATIVE = 2,   /* denoising at the trained size */
  FAM_PHASE_TARGET = 3,   /* denoising at the target size */
  FAM_PHASE_DECODE = 4    /* latents become pictures; steps are tiles */
} fam_phase;

typedef struct fam_progress {
  uint32_t struct_size; /* set by the library: fields beyond it are not there */
  fam_phase phase;
  uint64_t step;          /* done so far; 0 when the phase begins */
  uint64_t total;         /* of this phase */
  uint64_t picture_index; /* first picture of the batch at work */
  double timestep;        /* of the step that was done, in the two denoising phases */
  /* The latent after the step, float32 [B, C, h, w], valid until the callback returns; NULL unless
   * the request asked for latents, and in the other phases. */
  const float *latent;
  uint64_t latent_shape[4];
} fam_progress;

/* Called in the thread of the call. A value other than 0 cancels it: FAM_ERROR_CANCELLED. */
typedef int (*fam_progress_callback)(const fam_progress *progress, void *user_data);

/* ---- Pipelines ------------------------------------------------------------------------------ */

typedef struct fam_pipeline fam_pipeline;

typedef enum fam_verify {
  FAM_VERIFY_FULL = 0, /* hash every file */
  FAM_VERIFY_SIZE = 1  /* compare sizes only: for a bundle that was verified before and that nobody
                          else can write to */
} fam_verify;

typedef struct fam_pipeline_options {
  uint32_t struct_size;
  fam_verify verify;
  const char *backend;   /* "onnxruntime" (default), "tensorrt" or "tensorrt-rtx" */
  const char *provider;  /* of onnxruntime: "cpu" (default), "cuda", "tensorrt", "tensorrt-rtx" */
  uint32_t num_threads;  /* of an operator on the CPU; 0: one per core */
  uint32_t low_memory;   /* not 0: hold the graphs of one stage at a time, with mapped weights:
                            less memory, and slower; a colour may differ by 1 of 255 */
  uint32_t device_index; /* of the GPU */
  uint32_t reserved;
  const char *cache_dir; /* of TensorRT engines; NULL: the user's */
  fam_progress_callback progress; /* told of hashed bytes */
  void *user_data;                /* of the callback */
} fam_pipeline_options;

/* Opens the bundle in the folder `path`. `options` may be NULL. On failure *pipeline is NULL. */
FAM_API fam_status fam_pipeline_open(const char *path, const fam_pipeline_options *options,
                                     fam_pipeline **pipeline);

/* Frees a pipeline; it must not be making a picture. NULL is allowed. */
FAM_API void fam_pipeline_close(fam_pipeline *pipeline);

/* Stops the call that is running, after the step it is in; without one it does nothing. From any
 * thread. */
FAM_API void fam_pipeline_cancel(fam_pipeline *pipeline);

/* Frees every loaded graph, for a pause; the next call loads them again. */
FAM_API fam_status fam_pipeline_unload(fam_pipeline *pipeline);

typedef struct fam_bundle_info {
  uint32_t struct_size;
  uint32_t target_count;
  const char *name;        /* of the model */
  const char *family;      /* "sd" or "sdxl" */
  const char *dtype;       /* "fp32", "fp16" or "bf16" */
  const char *hash;        /* SHA-256 of the manifest, and through it of every byte */
  uint32_t native_height;  /* pixels */
  uint32_t native_width;
} fam_bundle_info;

/* Fills `info`, whose texts live as long as the pipeline. */
FAM_API fam_status fam_pipeline_bundle(const fam_pipeline *pipeline, fam_bundle_info *info);

/* Height and width in pixels of target `index`, smallest first. */
FAM_API fam_status fam_pipeline_target(const fam_pipeline *pipeline, uint32_t index,
                                       uint32_t *height, uint32_t *width);

/* ---- Requests ------------------------------------------------------------------------------- */

#define FAM_TILE_AUTO 0  /* by size */
#define FAM_TILE_WHOLE 1 /* in one piece */

typedef struct fam_request {
  uint32_t struct_size;
  uint32_t num_images_per_prompt; /* 0: 1 */
  const char *prompt;             /* one prompt, or NULL and `prompts` */
  const char *negative_prompt;    /* for all prompts, or NULL */
  const char *const *prompts;     /* several prompts */
  const char *const *negative_prompts; /* one per prompt, any of them NULL; or NULL */
  size_t prompt_count;
  /* Size: a scale (one factor, or two), or pixels; all 0: the smallest target of the bundle. */
  double scale;
  double scale_width; /* 0: the same as `scale` */
  uint32_t height;
  uint32_t width;
  uint32_t num_inference_steps; /* 0: the bundle's */
  uint32_t pictures_per_batch;  /* 0: 1. More is faster on a GPU, and may change last bits */
  const double *guidance_scale; /* NULL: the bundle's */
  const double *am_strength;    /* NULL: the bundle's, or the method's */
  const char *scheduler;        /* "ddim", "dpm++2m", "euler", "euler-a" or "lcm" */
  const char *method; /* "fam" (default), "fm", "am", "skip-residual", "direct", "direct-latent",
                         "constant-lf" or "swapping" */
  const char *noise;  /* "torch-cpu" (default) or "torch-cuda": whose generator to reproduce */
  const char *native_attention; /* "auto" (default), "store" or "replay" */
  /* Picture i has the seed `seed` + i, or seeds[i]. A negative seed of Python's is its two's
   * complement. */
  uint64_t seed;
  const uint64_t *seeds;
  size_t seed_count;
  uint32_t draw_seed;    /* not 0: the first seed is drawn by the system */
  uint32_t tile;         /* FAM_TILE_AUTO, FAM_TILE_WHOLE, or the VAE's tile in latent samples */
  uint32_t tile_overlap; /* in latent samples; 0: a quarter of the tile */
  uint32_t return_native;  /* not 0: the pictures of the native stage too */
  uint32_t latents_only;   /* not 0: do not decode */
  uint32_t watch_latents;  /* not 0: the callback is shown the latent of every step */
  fam_progress_callback progress;
  void *user_data; /* of the callback */
} fam_request;

/* ---- Results -------------------------------------------------------------------------------- */

typedef struct fam_result fam_result;

/* Makes pictures. On failure *result is NULL. */
FAM_API fam_status fam_generate(fam_pipeline *pipeline, const fam_request *request,
                                fam_result **result);

FAM_API void fam_result_free(fam_result *result);

typedef enum fam_stage { FAM_STAGE_TARGET = 0, FAM_STAGE_NATIVE = 1 } fam_stage;

typedef struct fam_image {
  uint32_t struct_size;
  uint32_t height; /* pixels */
  uint32_t width;
  uint32_t reserved;
  const uint8_t *rgb; /* [height, width, 3], rows without padding; NULL where nothing was decoded */
  uint64_t seed;
  const char *settings_json; /* everything that makes the picture again */
  const float *latent;       /* float32 [channels, latent_height, latent_width] */
  uint32_t latent_channels;
  uint32_t latent_height;
  uint32_t latent_width;
  uint32_t reserved2;
} fam_image;

/* Pictures of a stage; those of the native one only where the request asked for them. */
FAM_API size_t fam_result_image_count(const fam_result *result, fam_stage stage);

/* Fills `image`, whose pointers live as long as the result. */
FAM_API fam_status fam_result_image(const fam_result *result, fam_stage stage, size_t index,
                                    fam_image *image);

/* Writes a picture as a PNG that carries its settings; `fam-generate --from-png` makes it again. The
 * file appears whole or not at all. */
FAM_API fam_status fam_result_save_png(const fam_result *result, fam_stage stage, size_t index,
                                       const char *path);

/* What a user should know, a sentence each: a prompt that was cut, guidance that is paid twice. */
FAM_API size_t fam_result_warning_count(const fam_result *result);
FAM_API const char *fam_result_warning(const fam_result *result, size_t index);

/* Seconds per stage, and how the native attention was kept, as a JSON object. */
FAM_API const char *fam_result_report_json(const fam_result *result);

#ifdef __cplusplus
}
#endif

#endif /* FAM_FAM_H_ */

#include "engines/onnxruntime/engine_folder.h"

#include <filesystem>

#include "engines/onnxruntime/library.h"
#include "engines/tensorrt/engine_cache.h"
#include "engines/tensorrt/private_file.h"

namespace libfam {

std::string engine_folder(const std::string& cache_dir, const std::string& provider,
                          const std::string& bundle_hash) {
  std::string root = cache_dir.empty() ? default_cache_dir() : cache_dir;
  while (root.size() > 1 && root.ends_with('/')) root.pop_back();  // whose parent is another
  make_folders(std::filesystem::path(root).parent_path().string());
  const std::string library = root + "/onnxruntime-" + onnxruntime_version() + "-" + provider;
  const std::string folder = library + "/" + bundle_hash;
  for (const std::string& part : {root, library, folder}) {
    make_private_folder(part);
    private_folder_exists(part, root);  // and whoever made it, it is this user's alone
  }
  return folder;
}

}  // namespace libfam

#include "device.h"

namespace altmin::cuda {

int compiled_version() { return 0; }
int device_count() { return -1; }

}  // namespace altmin::cuda

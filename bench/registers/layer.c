// A Vulkan layer that prints what the driver says of each compute pipeline: registers, size of the code, memory (VK_KHR_pipeline_executable_properties).
// For `npm run bench -- ... --host node --registers`. It knows one instance and one device, as a bench has.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#define EXTENSION VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME
#define EXPORT __attribute__((visibility("default")))

static VkInstance instance;
static PFN_vkGetInstanceProcAddr nextOfInstance;
static PFN_vkGetDeviceProcAddr nextOfDevice;
static PFN_vkCreateComputePipelines createPipelines;
static PFN_vkGetPipelineExecutablePropertiesKHR getExecutables;
static PFN_vkGetPipelineExecutableStatisticsKHR getStatistics;

static VKAPI_ATTR VkResult VKAPI_CALL createInstance(const VkInstanceCreateInfo* info, const VkAllocationCallbacks* allocator, VkInstance* made) {
  VkLayerInstanceCreateInfo* link = (VkLayerInstanceCreateInfo*)info->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
    link = (VkLayerInstanceCreateInfo*)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  nextOfInstance = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  VkResult result = ((PFN_vkCreateInstance)nextOfInstance(NULL, "vkCreateInstance"))(info, allocator, made);
  if (result == VK_SUCCESS) instance = *made;
  return result;
}

static int hasExtension(VkPhysicalDevice device) {
  PFN_vkEnumerateDeviceExtensionProperties enumerate =
      (PFN_vkEnumerateDeviceExtensionProperties)nextOfInstance(instance, "vkEnumerateDeviceExtensionProperties");
  uint32_t count = 0;
  if (enumerate(device, NULL, &count, NULL) != VK_SUCCESS) return 0;
  VkExtensionProperties* all = calloc(count, sizeof *all);
  enumerate(device, NULL, &count, all);
  int found = 0;
  for (uint32_t i = 0; i < count; i++) found |= strcmp(all[i].extensionName, EXTENSION) == 0;
  free(all);
  return found;
}

static VKAPI_ATTR VkResult VKAPI_CALL createDevice(VkPhysicalDevice physical, const VkDeviceCreateInfo* asked, const VkAllocationCallbacks* allocator, VkDevice* made) {
  VkLayerDeviceCreateInfo* link = (VkLayerDeviceCreateInfo*)asked->pNext;
  while (link && !(link->sType == VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO && link->function == VK_LAYER_LINK_INFO))
    link = (VkLayerDeviceCreateInfo*)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  if (!hasExtension(physical)) {
    fprintf(stderr, "--registers: this driver does not say what its pipelines take, since it has no " EXTENSION ".\n");
    return VK_ERROR_EXTENSION_NOT_PRESENT;
  }
  PFN_vkGetInstanceProcAddr next = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  nextOfDevice = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;

  VkDeviceCreateInfo info = *asked;
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, (void*)info.pNext, VK_TRUE
  };
  const char** names = calloc(info.enabledExtensionCount + 1, sizeof *names);
  if (info.enabledExtensionCount > 0) memcpy(names, info.ppEnabledExtensionNames, info.enabledExtensionCount * sizeof *names);
  names[info.enabledExtensionCount++] = EXTENSION;
  info.ppEnabledExtensionNames = names;
  info.pNext = &feature;
  VkResult result = ((PFN_vkCreateDevice)next(instance, "vkCreateDevice"))(physical, &info, allocator, made);
  free(names);
  if (result != VK_SUCCESS) return result;
  createPipelines = (PFN_vkCreateComputePipelines)nextOfDevice(*made, "vkCreateComputePipelines");
  getExecutables = (PFN_vkGetPipelineExecutablePropertiesKHR)nextOfDevice(*made, "vkGetPipelineExecutablePropertiesKHR");
  getStatistics = (PFN_vkGetPipelineExecutableStatisticsKHR)nextOfDevice(*made, "vkGetPipelineExecutableStatisticsKHR");
  return VK_SUCCESS;
}

// One line; bench/registers/labels.mjs has begun it with the pipeline's label.
static void print(VkDevice device, VkPipeline pipeline) {
  VkPipelineInfoKHR of = { VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, NULL, pipeline };
  uint32_t executables = 0;
  getExecutables(device, &of, &executables, NULL);
  for (uint32_t e = 0; e < executables; e++) {
    VkPipelineExecutableInfoKHR info = { VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, NULL, pipeline, e };
    uint32_t count = 0;
    getStatistics(device, &info, &count, NULL);
    VkPipelineExecutableStatisticKHR* all = calloc(count, sizeof *all);
    for (uint32_t i = 0; i < count; i++) all[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    getStatistics(device, &info, &count, all);
    for (uint32_t i = 0; i < count; i++) {
      if (all[i].format == VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_FLOAT64_KHR) fprintf(stderr, " %s %g;", all[i].name, all[i].value.f64);
      else fprintf(stderr, " %s %llu;", all[i].name, (unsigned long long)all[i].value.u64);
    }
    free(all);
  }
  fputc('\n', stderr);
}

static VKAPI_ATTR VkResult VKAPI_CALL createComputePipelines(VkDevice device, VkPipelineCache cache, uint32_t count, const VkComputePipelineCreateInfo* asked,
                                                             const VkAllocationCallbacks* allocator, VkPipeline* made) {
  VkComputePipelineCreateInfo* infos = calloc(count, sizeof *infos);
  memcpy(infos, asked, count * sizeof *infos);
  for (uint32_t i = 0; i < count; i++) infos[i].flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
  VkResult result = createPipelines(device, cache, count, infos, allocator, made);
  free(infos);
  for (uint32_t i = 0; i < count && result == VK_SUCCESS; i++) print(device, made[i]);
  return result;
}

static PFN_vkVoidFunction ofDevice(VkDevice device, const char* name);

static PFN_vkVoidFunction own(const char* name) {
  if (strcmp(name, "vkCreateComputePipelines") == 0) return (PFN_vkVoidFunction)createComputePipelines;
  if (strcmp(name, "vkGetDeviceProcAddr") == 0) return (PFN_vkVoidFunction)ofDevice;
  return NULL;
}

static PFN_vkVoidFunction ofDevice(VkDevice device, const char* name) {
  PFN_vkVoidFunction found = own(name);
  return found ? found : nextOfDevice(device, name);
}

static PFN_vkVoidFunction ofInstance(VkInstance of, const char* name) {
  if (strcmp(name, "vkCreateInstance") == 0) return (PFN_vkVoidFunction)createInstance;
  if (strcmp(name, "vkCreateDevice") == 0) return (PFN_vkVoidFunction)createDevice;
  if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (PFN_vkVoidFunction)ofInstance;
  PFN_vkVoidFunction found = own(name);
  return found || !nextOfInstance ? found : nextOfInstance(of, name);
}

EXPORT VKAPI_ATTR VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface* version) {
  if (version->loaderLayerInterfaceVersion > 2) version->loaderLayerInterfaceVersion = 2;
  version->pfnGetInstanceProcAddr = ofInstance;
  version->pfnGetDeviceProcAddr = ofDevice;
  version->pfnGetPhysicalDeviceProcAddr = NULL;
  return VK_SUCCESS;
}
